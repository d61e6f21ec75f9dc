"""What the scripts of a report do: their functions in Node.js, the whole page in Chromium. Each is skipped where it is
not installed (Debian: `apt install nodejs chromium`)."""

import html
import json
import math
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from support.places import ROOT
from support.report_pages import HOSTILE, Page, hostile_run, write_history, write_records

from delta_trl.report import write_report
from delta_trl.report.selection import compressed
from delta_trl.report.text import number, short_number


NODE = shutil.which("node")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
NUMBERS = ROOT / "delta_trl" / "report" / "templates" / "numbers.js"

needs_node = pytest.mark.skipif(NODE is None, reason="no Node.js: functions of the report's scripts were not run")
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium: the report's scripts were not run in a page"
)


def in_node(*expressions: str) -> list:
    """Values of JavaScript expressions after numbers.js."""
    code = NUMBERS.read_text(encoding="utf-8") + f"\nPromise.all([{', '.join(expressions)}])"
    code += ".then((values) => console.log(JSON.stringify(values)))"
    done = subprocess.run([NODE, "-"], input=code, capture_output=True, text=True, timeout=300, check=True)
    return json.loads(done.stdout)


@needs_node
def test_both_languages_write_numbers_alike():
    values = [None, 0, -0.001, 0.004, 12, -12.3456, 999.999, 1234.5678, -1234567.891, 1e9]
    cases = [(value, digits, signed) for value in values for digits in (0, 2, 3) for signed in (False, True)]
    written = in_node(*(f"number({json.dumps(v)}, {d}, {json.dumps(s)})" for v, d, s in cases))
    assert written == [number(value, digits, signed=signed) for value, digits, signed in cases]
    values += [1e-6, -2.5e-6, 0.0012345, 59.046875, 883336, 12345678, 1e-4, 100, 0.999996, 5e-324, 1e300]
    assert in_node(*(f"short({json.dumps(v)})" for v in values[1:])) == [short_number(v) for v in values[1:]]


@needs_node
def test_functions_of_the_page():
    curve, base = "[[1, 2, 4, 6], [1, 2, 4, 6]]", "[[2, 3, 6], [0.5, 9, 1]]"
    cases = {
        # Numbers of any size are short
        "short(0)": "0",
        "short(1e-6)": "1e−6",
        "short(-2.5e-6)": "−2.5e−6",
        "short(0.0012345)": "0.001234",
        "short(0.5, true)": "+0.5",
        "short(59.046875)": "59.05",
        "short(883336)": "883,336",
        "short(12345678)": "1.235e7",
        "short(NaN)": "–",
        "short(100)": "100",
        "[percent(0.999), percent(0.001), percent(0.42)]": ["> 99%", "< 1%", "42%"],
        # Ticks are round, those of steps whole
        "ticks(1, 100, 5, true)": [20, 40, 60, 80, 100],
        "ticks(1, 3, 5, true)": [1, 2, 3],
        "ticks(7, 7, 5, true)": [7],
        "ticks(-0.11, 0.12, 4)": [-0.1, 0, 0.1],
        # A trailing mean
        "smoothed([1, 2, 6, 3], 2)": [1, 1.5, 4, 4.5],
        "smoothed([1, 2, 6, 3], 1)": [1, 2, 6, 3],
        # Differences pair steps
        f"difference({curve}, {base})": [[2, 6], [1.5, 5]],
        f"difference({curve}, null)": None,
        f"difference({curve}, [[5], [0]])": None,
        "[0, 2, 4, 8, 99].map((wanted) => nearest([1, 5, 9], wanted))": [0, 0, 1, 2, 2],
    }
    assert dict(zip(cases, in_node(*cases), strict=True)) == cases


@needs_node
def test_csv_has_a_line_for_each_run_and_step():
    metrics = {"reward": [[[1, 3], [0.5, 0.25]], [[1], [-1]]], "eval_reward": [[[2], [0.75]], None]}
    (text,) = in_node(f"csv(['delta', 'a \"b\", c'], {json.dumps(metrics)})")
    assert text.splitlines() == [
        "run,step,reward,eval_reward",
        "delta,1,0.5,",
        "delta,2,,0.75",
        "delta,3,0.25,",
        '"a ""b"", c",1,-1,',
    ]


@needs_node
def test_what_python_compresses_is_read_back():
    content = {"texts": [*HOSTILE[:13], "λ 你 🙂"], "values": [1, None]}
    assert in_node(f"inflate({json.dumps(compressed(content))})") == [content]


def in_browser(path: Path, profile: Path, script: str) -> tuple[list, str]:
    """
    What `script` (the body of an async function) returns a second after the page's own scripts, in a frame as wide as a
    phone, and the HTML of the frame's body then. A browser's window cannot be that narrow.
    """
    later = """<script>setTimeout(async () => {
        const run = async () => { SCRIPT };
        const seen = await run().catch((error) => [String(error.stack)]);
        parent.postMessage([seen, document.documentElement.outerHTML], "*");
    }, 1000)</script></body>"""
    tested = path.with_name("tested.html")
    page = path.read_text(encoding="utf-8")
    tested.write_text(page.replace("</body>", later.replace("SCRIPT", script)), encoding="utf-8")
    frame = path.with_name("frame.html")
    frame.write_text(
        f'<iframe src="{tested.as_uri()}" width="390" height="800"></iframe><script>addEventListener("message", '
        "({ data }) => (document.title = JSON.stringify(data)))</script>"
    )
    command = [
        *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--dump-dom"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic"),
        *("--virtual-time-budget=8000", f"--user-data-dir={profile}", frame.as_uri()),
    ]
    for _ in range(3):  # on a busy machine the virtual time may be over before the page has done its work
        done = subprocess.run(command, capture_output=True, timeout=120, check=True)
        if found := re.search(r"<title>(.*?)</title>", done.stdout.decode(), re.S):
            break
    seen, body = json.loads(html.unescape(found[1]))
    return seen, body


@needs_chromium
def test_hostile_completions_are_text_in_a_browser(tmp_path):
    folder = hostile_run(tmp_path)
    path = write_report([folder], tmp_path / "report.html")
    (title,), dumped = in_browser(path, tmp_path / "profile", "return [document.title];")
    assert title == f"DelTA run report: {folder.name}"  # no completion wrote another one
    body = Page(re.search(r"<body.*</body>", dumped, re.S)[0])
    assert body.tags.count("script") == 3  # the page's two, and the test's
    assert "img" not in body.tags
    shown = re.search(r'<div class="sides".*', dumped, re.S)[0]
    assert "<b>bold" not in shown
    assert html.escape(HOSTILE[1], quote=False) in shown
    assert "broken \ufffd\ufffd\ufffd bytes" in shown


@needs_chromium
def test_a_tap_shows_a_token_and_a_program_keeps_its_shape(tmp_path):
    rows = [
        {
            "tokens": ["def", " f():\n", "\treturn", "    1\n"],
            "coefficients": [1.1, 0.8, 1.0, 1.0],
            "log_probs": [-1e-4, -0.7, -9.0, -0.1],
            "advantage": 0.5,
        },
        {
            "completion_ids": [10, 11],
            "tokens": ["tool" * 50, " 4"],
            "coefficients": [1.0, 1.2],
            "is_token": [False, True],
            "log_probs": [-0.1, -0.105],
            "advantage": -0.5,
        },
        {"tokens": ["line\n"] * 200, "advantage": -0.5, "coefficients": [1.0] * 200},
    ]
    write_records(tmp_path, 7, [{**row, "prompt": "1 + 2?" + "x" * 500} for row in rows])
    script = """
        const seen = [...document.querySelectorAll(".side .t")].map((token) => {
            token.click();
            return document.getElementById("tip").innerText;
        });
        const boxes = [document.documentElement, ...document.querySelectorAll(".scroll, .text")];
        seen.push(document.getElementById("where").textContent, boxes.every((box) => box.scrollWidth <= box.clientWidth));
        const [program, other] = document.querySelectorAll(".side .text");
        const line = (token) => token.getClientRects()[0];
        const [def, f, returns] = program.children;
        seen.push(line(def).top === line(f).top, line(returns).bottom > line(def).bottom + 5);
        const indent = document.createRange();
        indent.setStart(returns.lastChild, 1);  // after the tab that follows its mark
        indent.setEnd(returns.lastChild, 2);
        seen.push(indent.getBoundingClientRect().left > line(def).left + 20);
        document.querySelectorAll(".side button")[1].click();
        seen.push(other.scrollHeight > other.clientHeight);
        return seen;
    """
    seen, _ = in_browser(write_report([tmp_path]), tmp_path / "profile", script)
    lines = [" ".join(text.split()) if isinstance(text, str) else text for text in seen]
    assert lines == [
        "def λ 1.10 probability > 99% advantage +0.50 token 1 of 4",
        "␣f():↵ λ 0.80 probability 50% advantage +0.50 token 2 of 4",
        "⇥return λ 1.00 probability < 1% advantage +0.50 token 3 of 4",
        "␣␣␣␣1↵ λ 1.00 probability 90% advantage +0.50 token 4 of 4",
        "tool" * 50 + " not written by the model advantage −0.50 token 1 of 2",
        "␣4 λ 1.20 probability 90% advantage −0.50 token 2 of 2",
        "Step 7, prompt 1 of 1: 1 right, 2 wrong",
        *[True] * 5,
    ]


@needs_chromium
def test_curves_show_values_and_differences(tmp_path):
    for name, reward, step in (("a-run-with-a-long-name" * 3, 0.25, 1), ("b", 0.75, 2)):
        history = [
            {"step": i, "reward": reward + (i == 15), "kl": 0.001 * i, "my/metric": -i, "grad_norm": math.nan}
            for i in range(step, 31)
        ]
        write_history(tmp_path / name, [*history, {"step": 30, "eval_reward": 0.5}])
        (tmp_path / name / "delta_trl_run.json").write_text(json.dumps({"command": "x" * 300, "trainer": name}))
    script = """
        const tip = document.getElementById("tip");
        const charts = () => [...document.querySelectorAll("#curves figure, #others figure")];
        const values = (chart, share) => {
            const svg = charts()[chart].querySelector("svg");
            const box = svg.getBoundingClientRect();
            const at = { clientX: box.left + share * box.width, clientY: box.top + 9 };
            svg.dispatchEvent(new PointerEvent("pointermove", at));
            return tip.innerText;
        };
        const titles = () => charts().map((chart) => chart.querySelector("figcaption").textContent).join("; ");
        const seen = [titles(), values(0, 0.05), values(0, 1), document.querySelector("#curves .flat").innerText];
        const ticks = [...charts()[0].querySelectorAll("text[text-anchor=middle]")].map((text) => text.textContent);
        seen.push(ticks.join(" "));
        const base = document.getElementById("base");
        base.value = "0";
        base.dispatchEvent(new Event("change"));
        seen.push(values(0, 0.05), [...base.options].map((option) => option.text.slice(0, 20)).join("; "));
        document.getElementById("others").open = true;
        await new Promise((done) => setTimeout(done, 100));
        seen.push(titles());
        let csv;
        URL.createObjectURL = (blob) => ((csv = blob), "blob:x");
        document.getElementById("csv").click();
        seen.push([...document.querySelectorAll("[data-script]")].every((element) => element.offsetHeight > 0));
        seen.push((await csv.text()).split("\\n")[1].slice(-17), document.documentElement.scrollWidth <= innerWidth);
        return seen;
    """
    runs = sorted(f for f in tmp_path.iterdir() if f.is_dir())
    seen, _ = in_browser(write_report(runs, tmp_path / "report.html"), tmp_path / "profile", script)
    name = runs[0].name
    assert [" ".join(text.split()) if isinstance(text, str) else text for text in seen] == [
        "Reward; KL divergence",
        f"Step 1 {name} 0.25",
        f"Step 30 {name} 0.25 b 0.75",
        "Evaluation reward 0.5 (logged once). On the held-out problems.",
        "10 20 30",
        "Step 2 b +0.5",
        "Values; Difference from a-ru; Difference from b",
        "Reward; KL divergence; my/metric",
        True,
        ",1,,0.001,-1,0.25",
        True,
    ]


@needs_chromium
def test_the_coefficient_histogram_shows_shares(tmp_path):
    for step in (1, 2):
        write_records(tmp_path, step, [{"tokens": ["a"] * 4, "coefficients": [0.9] * 3 + [1.1], "advantage": 1.0}])
    script = """
        const figure = document.querySelector("#histograms figure");
        const cell = figure.querySelector(".cell").getBoundingClientRect();
        const at = { clientX: cell.left + cell.width / 2, clientY: cell.top + cell.height / 2 };
        figure.querySelector("svg").dispatchEvent(new PointerEvent("pointermove", at));
        return [figure.innerText.split("\\n")[0], document.getElementById("tip").innerText];
    """
    (title, tip), _ = in_browser(write_report([tmp_path]), tmp_path / "profile", script)
    assert title == "Advantage > 0"
    low, high = (float(v) for v in re.search(r"Step 1, λ ([\d.]+) to ([\d.]+)", tip).groups())
    assert low - 1e-6 <= 0.9 <= high + 1e-6
    assert "75.0%" in tip
