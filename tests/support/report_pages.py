"""Report pages to test: hostile token records, and what a parser makes of a page."""

import base64
import json
import zlib
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq


HOSTILE = [
    "<script>document.title='owned'</script>",
    "</script><script>document.title='owned'</script>",
    "<img src=x onerror=\"document.title='owned'\">",
    "\"'><b>bold</b>",
    "' onmouseover='document.title=1",
    "{{ 7 * 7 }}{% raw %}",
    "${document.title='owned'}",
    "<!-- comment",
    "]]>",
    "&lt;already escaped&gt;",
    "null\x00byte",
    "\u202eright to left",
    "zero\u200bwidth",
    "\ud83d half a surrogate pair",
    "line\nbreak\r\n\ttab",
    "<|im_end|>",
    "",
    " ",
]


class Page(HTMLParser):
    """What a parser makes of a page: tags, attributes, text by element, and whether every element is closed."""

    VOID = {"meta", "input", "br", "img", "link", "hr"}

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.attributes, self.open = [], [], []
        self.text = {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in ("p", "tr", "td"):
            while self.open[-1] in ("p", "tr", "td"):
                self.open.pop()
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open:
            self.text[self.open[-1]] = self.text.get(self.open[-1], "") + data

    def data(self) -> dict:
        """What the page's scripts are given, with the curves read."""
        data = json.loads(self.text["script"].split('"use strict"')[0])
        return data | {"curves": inflate(data["curves"])}


def inflate(compressed: str):
    return json.loads(zlib.decompress(base64.b64decode(compressed)))


def write_records(folder: Path, step: int, rows: list[dict]) -> Path:
    """Token records as the trainer writes them. A row needs tokens and advantage; the rest has defaults."""
    rows = [
        {
            "step": step,
            "prompt": "Why?\n",
            "completion_ids": list(range(len(row["tokens"]))),
            "is_token": [True] * len(row["tokens"]),
            "coefficients": [1.1] * len(row["tokens"]),
            "log_probs": [-0.1] * len(row["tokens"]),
            "reward": float(row["advantage"] > 0),
            **row,
        }
        for row in rows
    ]
    path = folder / "completions" / f"coefficients_{step:05d}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_parquet(path)
    return path


def write_history(folder: Path, history: list[dict], **state) -> Path:
    """A `trainer_state.json` with this log."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "trainer_state.json"
    last = max((entry["step"] for entry in history), default=0)
    path.write_text(json.dumps({"global_step": last, "max_steps": last, "log_history": history, **state}))
    return path


def hostile_run(parent: Path) -> Path:
    """A run that says everything that could break a page; its folder, too, has such a name."""
    folder = parent / "<img src=x onerror=alert(1)>&{{7*7}}$x^2$"
    # A Parquet file cannot hold half a surrogate pair, which is no UTF-8; the heat map's test has it
    tokens = [token for token in HOSTILE if "\ud83d" not in token]
    rows = [
        {"tokens": tokens * 10, "completion_ids": list(range(len(tokens))) * 10, "advantage": advantage}
        for advantage in (1.0, -1.0)
    ]
    path = write_records(folder, 1, [{**row, "prompt": "".join(tokens)} for row in rows])
    # Broken UTF-8 in a string column: Arrow does not check what another writer put there
    table = pq.read_table(path)
    broken = b"broken \xff\xfe\xc3 bytes"
    cells = pa.array([broken, *(token.encode() for token in tokens * 10)][: len(tokens) * 10] * 2, pa.binary())
    text = pa.StringArray.from_buffers(len(cells), cells.buffers()[1], cells.buffers()[2])
    column = pa.ListArray.from_arrays(pa.array([0, len(cells) // 2, len(cells)], pa.int32()), text)
    pq.write_table(table.set_column(table.column_names.index("tokens"), "tokens", column), path)
    settings = {"trainer": HOSTILE[0], "command": HOSTILE[2], "settings": {HOSTILE[3]: HOSTILE[1]}}
    (folder / "delta_trl_run.json").write_text(json.dumps(settings))
    return folder
