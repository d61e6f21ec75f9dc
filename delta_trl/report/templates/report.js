"use strict";
// Completion text only ever becomes textContent: nothing of it is parsed as HTML.
{
  const SCALE = 1000;
  const FULL = 0.995;
  const $ = (id) => document.getElementById(id);
  const runs = JSON.parse($("groups").textContent).filter((run) => run && run.groups.length);
  let run = runs[0];
  let position = 0;

  function make(tag, className, text) {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
  }

  async function unpack(group) {
    if (!group.content) {
      const bytes = Uint8Array.from(atob(group.packed), (c) => c.charCodeAt(0));
      const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
      group.content = await new Response(stream).json();
    }
    return group.content;
  }

  async function show() {
    const group = run.groups[position];
    $("position").value = position;
    $("previous").disabled = position === 0;
    $("next").disabled = position === run.groups.length - 1;
    const content = await unpack(group);
    if (group !== run.groups[position]) return; // the slider has moved on
    hideTip();
    const [right, wrong] = run.names;
    const count = `prompt ${position + 1} of ${run.groups.length}`;
    const hidden = group.shown < group.of ? `, ${group.shown} of ${group.of} shown` : "";
    $("where").textContent = `Step ${group.step}, ${count}: ${group.positive} ${right}, ${group.negative} ${wrong}${hidden}`;
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
        .map(([name, completions]) => side(name, completions, content.texts)),
    );
  }

  // One completion at a time, so that a right and a wrong one stand next to each other
  function side(name, completions, texts) {
    const box = make("section", "side");
    const header = make("header");
    const title = make("h3");
    const steps = make("div");
    const text = make("div", "text");
    text.tabIndex = 0;
    let i = 0;
    const draw = () => {
      const completion = completions[i];
      const advantage = completion.advantage === null ? "" : `, advantage ${signed(completion.advantage)}`;
      title.textContent = name[0].toUpperCase() + name.slice(1);
      facts.textContent = `reward ${completion.reward}${advantage}`;
      where.textContent = `${i + 1} of ${completions.length}`;
      text.completion = completion;
      text.replaceChildren(...completion.tokens.map((token, at) => tokenSpan(completion, texts[token], at)));
      hideTip();
    };
    const step = (by) => () => {
      i = (i + by + completions.length) % completions.length;
      draw();
    };
    const facts = make("span", "soft");
    const where = make("span", "soft");
    const back = make("button", "", "‹");
    const forth = make("button", "", "›");
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

  function tokenSpan(completion, text, at) {
    const coefficient = completion.coefficients[at];
    const span = make("span", "t", text);
    span.at = at;
    if (coefficient === null) {
      span.classList.add("foreign");
    } else {
      const distance = coefficient / SCALE - 1;
      span.classList.add(distance > 0 ? "high" : "low");
      span.style.setProperty("--w", Math.min(1, Math.abs(distance) / run.spread).toFixed(2));
    }
    return span;
  }

  const signed = (value) => (value > 0 ? "+" : value < 0 ? "−" : "") + Math.abs(value).toFixed(2);

  function probability(logProb) {
    const p = Math.exp(logProb / SCALE);
    if (p >= FULL) return p > 0.9995 ? "> 99.9%" : (100 * p).toFixed(1) + "%";
    return p < 0.001 ? "< 0.1%" : (100 * p).toFixed(1) + "%";
  }

  let current = null;
  function showTip(span) {
    if (!span || span.at === undefined) return;
    hideTip();
    current = span;
    span.classList.add("current");
    const completion = span.parentElement.completion;
    const [coefficient, logProb] = [completion.coefficients[span.at], completion.log_probs[span.at]];
    const list = make("dl");
    const add = (name, value) => list.append(make("dt", "", name), make("dd", "", value));
    if (coefficient === null) {
      add("not written by the model", "");
    } else {
      add("λ", (coefficient / SCALE).toFixed(3));
      if (logProb !== null) add("probability", probability(logProb));
    }
    if (completion.advantage !== null) add("advantage", signed(completion.advantage));
    add("token", `${span.at + 1} of ${completion.tokens.length}`);
    const tip = $("tip");
    tip.replaceChildren(make("b", "", span.textContent.trim() || "␣"), list);
    tip.hidden = false;
    const frame = tip.offsetParent.getBoundingClientRect();
    const box = span.getClientRects()[0];
    tip.style.left = Math.max(4, Math.min(box.left - frame.left, frame.width - tip.offsetWidth - 4)) + "px";
    tip.style.top = box.bottom - frame.top + 6 + "px";
  }
  function hideTip() {
    if (current) current.classList.remove("current");
    current = null;
    $("tip").hidden = true;
  }

  function move(to) {
    position = Math.max(0, Math.min(run.groups.length - 1, to));
    show();
  }
  function choose(index) {
    run = runs[index];
    $("position").max = run.groups.length - 1;
    $("low").textContent = `λ ${(1 - run.spread).toFixed(2)}`;
    $("high").textContent = (1 + run.spread).toFixed(2);
    // The first prompt with both sides: what one came to see
    move(Math.max(0, run.groups.findIndex((g) => g.positive && g.negative)));
  }

  if (runs.length) {
    $("browser").hidden = false;
    runs.forEach((r, i) => $("run").append(new Option(r.name, i)));
    $("run").hidden = runs.length === 1;
    $("run").onchange = () => choose(Number($("run").value));
    $("previous").onclick = () => move(position - 1);
    $("next").onclick = () => move(position + 1);
    $("position").oninput = () => move(Number($("position").value));
    $("previous").ariaLabel = "previous prompt";
    $("next").ariaLabel = "next prompt";
    const sides = $("sides");
    sides.addEventListener("pointerover", (event) => showTip(event.target.closest(".t")));
    sides.addEventListener("click", (event) => showTip(event.target.closest(".t")));
    sides.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && hideTip());
    sides.addEventListener("scroll", hideTip, true);
    sides.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: "previousElementSibling", ArrowRight: "nextElementSibling" }[event.key];
      if (!by || !event.target.matches(".text")) return;
      event.preventDefault();
      const inside = current && current.parentElement === event.target;
      const next = inside ? current[by] : event.target.firstElementChild;
      if (next) {
        next.scrollIntoView({ block: "nearest" });
        showTip(next);
      }
    });
    choose(0);
  }
}
