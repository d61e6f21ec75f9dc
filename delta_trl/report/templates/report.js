"use strict";
// Completion text only ever becomes textContent: nothing of it is parsed as HTML.
{
  const LEVELS = 254; // λ and probability come as 1 to 255; 0 means that there is none
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

  async function inflate(packed) {
    const bytes = Uint8Array.from(atob(packed), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }

  async function unpack(run, group) {
    if (typeof run.texts === "string") run.texts = parse(await inflate(run.texts));
    group.content ??= read(await inflate(group.packed), run.texts);
    return group.content;
  }

  const parse = (bytes) => JSON.parse(new TextDecoder().decode(bytes));

  // The layout that browser.py writes: a length, JSON, then five bytes a token, each kind by itself
  function read(bytes, texts) {
    const start = 4 + new DataView(bytes.buffer).getUint32(0, true);
    const content = parse(bytes.subarray(4, start));
    const n = content.completions.reduce((sum, completion) => sum + completion.length, 0);
    const at = (kind, i) => bytes[start + kind * n + i];
    const share = (level) => (level ? (level - 1) / LEVELS : null);
    let first = 0;
    for (const completion of content.completions) {
      const places = Array.from({ length: completion.length }, (_, i) => first + i);
      completion.texts = places.map((i) => texts[at(0, i) | (at(1, i) << 8) | (at(2, i) << 16)]);
      completion.coefficients = places.map((i) => {
        const between = share(at(3, i));
        return between === null ? null : content.low + (content.high - content.low) * between;
      });
      completion.probabilities = places.map((i) => share(at(4, i)));
      first += completion.length;
    }
    return content;
  }

  async function show() {
    const group = run.groups[position];
    $("position").value = position;
    $("previous").disabled = position === 0;
    $("next").disabled = position === run.groups.length - 1;
    const content = await unpack(run, group);
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
        .map(([name, completions]) => side(name, completions)),
    );
  }

  // One completion at a time, so that a right and a wrong one stand next to each other
  function side(name, completions) {
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
      facts.textContent = `reward ${completion.reward ?? "unknown"}${advantage}`;
      where.textContent = `${i + 1} of ${completions.length}`;
      text.completion = completion;
      text.replaceChildren(...completion.texts.map((token, at) => tokenSpan(completion, token, at)));
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
      const distance = coefficient - 1;
      span.classList.add(distance > 0 ? "high" : "low");
      span.style.setProperty("--w", Math.min(1, Math.abs(distance) / run.spread).toFixed(2));
    }
    return span;
  }

  const signed = (value) => (value > 0 ? "+" : value < 0 ? "−" : "") + Math.abs(value).toFixed(2);

  function percent(share) {
    if (share > 0.99) return "> 99%";
    return share < 0.01 ? "< 1%" : Math.round(100 * share) + "%";
  }

  let current = null;
  function showTip(span) {
    if (!span || span.at === undefined) return;
    hideTip();
    current = span;
    span.classList.add("current");
    const completion = span.parentElement.completion;
    const [coefficient, probability] = [completion.coefficients[span.at], completion.probabilities[span.at]];
    const list = make("dl");
    const add = (name, value) => list.append(make("dt", "", name), make("dd", "", value));
    if (coefficient === null) {
      add("not written by the model", "");
    } else {
      add("λ", coefficient.toFixed(2));
      if (probability !== null) add("probability", percent(probability));
    }
    if (completion.advantage !== null) add("advantage", signed(completion.advantage));
    add("token", `${span.at + 1} of ${completion.texts.length}`);
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
    addEventListener("resize", () => showTip(current));
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
