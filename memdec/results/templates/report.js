// Shows, for the token under the pointer, what the base and the memory expected. All text goes in as text.
(() => {
  const tip = document.getElementById("tip");
  if (!tip) return;
  const element = (name, className, text) => {
    const made = document.createElement(name);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const visible = (text) => text.replace(/\n/g, "\u21b5").replace(/^ /, "\u2423").replace(/\t/g, "\u21e5") || "(empty)";
  const percent = (share) => {
    const value = 100 * share;
    if (value < 0.01) return "<0.01%";
    return (value >= 10 ? value.toFixed(0) : value >= 1 ? value.toFixed(1) : value.toPrecision(2)) + "%";
  };
  const short = (logProb) => (Math.round(100 * logProb) / 100 || 0).toFixed(2);
  const tops = (title, entries, gold) => {
    const box = element("div");
    box.append(element("h4", "", title));
    for (const [text, share] of entries) {
      const line = element("div", text === gold ? "top gold" : "top");
      line.style.setProperty("--p", share);
      line.append(element("span", "", visible(text)), element("span", "", percent(share)));
      box.append(line);
    }
    return box;
  };
  const place = (token) => {
    const box = token.getClientRects()[0] || token.getBoundingClientRect();
    const left = Math.min(Math.max(12, box.left - 20), innerWidth - tip.offsetWidth - 12);
    const below = box.bottom + 10;
    const fits = below + tip.offsetHeight < innerHeight - 8;
    tip.style.left = left + "px";
    tip.style.top = (fits ? below : Math.max(8, box.top - tip.offsetHeight - 10)) + "px";
  };
  let current = null;
  const hide = () => {
    if (current) current.classList.remove("now");
    current = null;
    tip.hidden = true;
  };
  const show = (token, facts) => {
    hide();
    current = token;
    token.classList.add("now");
    const [base, mixture, baseTop, memoryTop] = facts;
    const gold = token.textContent;
    const factor = Math.exp(mixture - base);
    const change = element("div", "change");
    change.append(
      "base ", element("b", "", percent(Math.exp(base))), " \u2192 with memory ", element("b", "", percent(Math.exp(mixture))),
      factor >= 1 ? ` (\u00d7${factor.toPrecision(2)}` : ` (\u00f7${(1 / factor).toPrecision(2)}`,
      `; log p ${short(base)} \u2192 ${short(mixture)})`,
    );
    const lists = element("div", "tops");
    if (baseTop.length) lists.append(tops("Base expected", baseTop, gold));
    if (memoryTop.length) lists.append(tops("Memory expected", memoryTop, gold));
    tip.replaceChildren(element("div", "word", visible(gold)), change, lists);
    tip.hidden = false;
    place(token);
  };
  for (const text of document.querySelectorAll(".text")) {
    const facts = JSON.parse(document.querySelector(`script[data-for="${text.id}"]`).textContent);
    const tokens = [...text.children];
    const showAt = (index) => show(tokens[index], facts[index]);
    const over = (event) => {
      const index = tokens.indexOf(event.target);
      if (index >= 0) showAt(index);
    };
    const fromAddress = () => {
      const index = tokens.findIndex((token) => token.id && location.hash === "#" + token.id);
      if (index >= 0) showAt(index);
    };
    window.addEventListener("hashchange", fromAddress);
    fromAddress();
    text.addEventListener("pointerover", over);
    text.addEventListener("click", over);
    text.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && hide());
    text.addEventListener("scroll", hide);
    text.addEventListener("blur", hide);
    text.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (event.key === "Escape") hide();
      if (!step) return;
      event.preventDefault();
      const next = Math.min(Math.max(0, tokens.indexOf(current) + step), tokens.length - 1);
      tokens[next].scrollIntoView({ block: "nearest" });
      requestAnimationFrame(() => requestAnimationFrame(() => showAt(next)));
    });
  }
  document.addEventListener("pointerdown", (event) => event.target.closest(".text, .chips") || hide());
})();
