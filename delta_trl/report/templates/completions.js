"use strict";
// The completions of one prompt after another, right and wrong side by side, coloured by coefficient.

function showCompletions(runs) {
  let run = runs[0];
  let position = 0;
  let current = null;

  async function unpack(run, group) {
    run.unpackedTexts ??= await inflate(run.texts);
    group.unpacked ??= await inflate(group.content);
    return group.unpacked;
  }

  async function show() {
    const group = run.groups[position];
    $("position").value = position;
    $("previous").disabled = position === 0;
    $("next").disabled = position === run.groups.length - 1;
    const content = await unpack(run, group);
    if (group !== run.groups[position]) return; // the slider has moved on
    leave();
    const [right, wrong] = run.sides;
    const count = `prompt ${number(position + 1)} of ${number(run.groups.length)}`;
    const hidden = group.shown < group.of ? `, ${group.shown} of ${group.of} shown` : "";
    $("where").textContent = `Step ${number(group.step)}, ${count}: ${group.positive} ${right}, ${group.negative} ${wrong}${hidden}`;
    $("prompt").textContent = content.prompt;
    const sides = [
      [right, (a) => a > 0],
      [wrong, (a) => a < 0],
      ["no advantage, so no gradient", (a) => !a],
    ];
    $("sides").replaceChildren(
      ...sides
        .map(([name, belongs]) => [name, content.completions.filter((c) => belongs(c.advantage))])
        .filter(([, completions]) => completions.length)
        .map(([name, completions]) => side(name, completions)),
    );
  }

  // One completion at a time, so that a right and a wrong one stand next to each other
  function side(name, completions) {
    const box = make("section", "side");
    const header = make("header");
    const title = make("h3", "", name[0].toUpperCase() + name.slice(1));
    const facts = make("span", "soft");
    const steps = make("div");
    const where = make("span", "soft");
    const [back, forth] = [make("button", "", "‹"), make("button", "", "›")];
    const text = make("div", "text");
    text.tabIndex = 0;
    let i = 0;
    const draw = () => {
      const completion = completions[i];
      const advantage = completion.advantage === null ? "" : `, advantage ${number(completion.advantage, 2, true)}`;
      facts.textContent = `reward ${number(completion.reward, 2)}${advantage}, ${number(completion.tokens.length)} tokens`;
      where.textContent = `${i + 1} of ${completions.length}`;
      text.completion = completion;
      text.replaceChildren(...completion.tokens.map((token, at) => tokenSpan(completion, token, at)));
      text.scrollTop = 0;
      leave();
    };
    const step = (by) => () => {
      i = (i + by + completions.length) % completions.length;
      draw();
    };
    back.ariaLabel = "previous completion";
    forth.ariaLabel = "next completion";
    back.onclick = step(-1);
    forth.onclick = step(1);
    if (completions.length > 1) steps.append(back, where, forth);
    header.append(title, steps);
    box.append(header, facts, text);
    draw();
    return box;
  }

  function tokenSpan(completion, token, at) {
    const coefficient = completion.coefficients[at];
    const span = make("span", "t");
    span.at = at;
    // The marks of line breaks and tabs are faint, so that a program is read as it was written
    for (const part of run.unpackedTexts[token].split(/([↵⇥␍])/)) span.append(/^[↵⇥␍]$/.test(part) ? make("i", "", part) : part);
    if (coefficient === null) {
      span.classList.add("foreign");
    } else {
      const distance = coefficient / 100 - 1;
      span.classList.add(distance > 0 ? "high" : "low");
      span.style.setProperty("--w", Math.min(1, Math.abs(distance) / run.spread).toFixed(2));
    }
    return span;
  }

  function point(span) {
    if (!span || span.at === undefined) return;
    leave();
    current = span;
    span.classList.add("current");
    const { completion } = span.closest(".text");
    const [coefficient, probability] = [completion.coefficients[span.at], completion.probabilities[span.at]];
    const rows = coefficient === null ? [["not written by the model", ""]] : [["λ", number(coefficient / 100, 2)]];
    if (probability !== null) rows.push(["probability", percent(probability / 100)]);
    if (completion.advantage !== null) rows.push(["advantage", number(completion.advantage, 2, true)]);
    rows.push(["token", `${number(span.at + 1)} of ${number(completion.tokens.length)}`]);
    showTip(span.textContent.replace(/[\n\t]/g, "").replace(/ /g, "␣"), rows, span.getClientRects()[0]);
  }
  function leave() {
    if (current) current.classList.remove("current");
    current = null;
    hideTip();
  }

  function move(to) {
    position = Math.max(0, Math.min(run.groups.length - 1, to));
    show();
  }
  function choose(index) {
    run = runs[index];
    $("position").max = run.groups.length - 1;
    $("low").textContent = `λ ${number(1 - run.spread, 2)}`;
    $("high").textContent = number(1 + run.spread, 2);
    // The first prompt with both sides: what one came to see
    move(Math.max(0, run.groups.findIndex((g) => g.positive && g.negative)));
  }

  $("browser").hidden = false;
  runs.forEach((r, i) => $("run").append(new Option(r.name, i)));
  $("run").hidden = runs.length === 1;
  $("run").onchange = () => choose(Number($("run").value));
  $("previous").onclick = () => move(position - 1);
  $("next").onclick = () => move(position + 1);
  $("position").oninput = () => move(Number($("position").value));
  const sides = $("sides");
  sides.addEventListener("pointerover", (event) => point(event.target.closest(".t")));
  sides.addEventListener("click", (event) => point(event.target.closest(".t")));
  sides.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && leave());
  sides.addEventListener("scroll", leave, true);
  addEventListener("resize", leave);
  sides.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: "previousElementSibling", ArrowRight: "nextElementSibling" }[event.key];
    if (!by || !event.target.matches(".text")) return;
    event.preventDefault();
    const inside = current && current.parentElement === event.target;
    const next = inside ? current[by] : event.target.firstElementChild;
    if (next) {
      next.scrollIntoView({ block: "nearest" });
      point(next);
    }
  });
  choose(0);
}
