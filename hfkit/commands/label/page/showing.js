// Builds nodes: text always becomes text, never HTML.

const SVG = "http://www.w3.org/2000/svg";
const still = matchMedia("(prefers-reduced-motion: reduce)");

/** An element with properties and children (nodes or texts). */
export function element(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

export function icon(name) {
  const svg = document.createElementNS(SVG, "svg"), use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#${name}`);
  svg.setAttribute("aria-hidden", "true");
  svg.append(use);
  return svg;
}

/** The nodes of a text as it is; blocks between ``` lines are set as code, their fences included. */
function textNodes(text) {
  return text.split(/(^```[^\n]*\n[\s\S]*?^```[ \t]*$\n?)/m).filter(Boolean).map((part) => {
    const isCode = part.startsWith("```") && part.trimEnd().length > 3 && part.trimEnd().endsWith("```");
    return isCode ? element("code", { className: "block", dir: "ltr" }, part) : document.createTextNode(part);
  });
}

/** A text, and a button for the rest of it if it is long. */
export function textBlock(content) {
  const text = element("div", { className: "text", dir: "auto" }, ...textNodes(String(content ?? "")));
  if (!text.textContent.trim()) text.append(element("em", {}, "empty"));
  const more = element("button", { type: "button", className: "link more", hidden: true }, "Show all");
  more.onclick = () => {
    more.textContent = text.classList.toggle("clamped") ? "Show all" : "Show less";
  };
  requestAnimationFrame(() => {
    text.classList.add("clamped");
    if (text.scrollHeight > text.clientHeight * 1.25) more.hidden = false;
    else text.classList.remove("clamped");
  });
  return [text, more];
}

/** Scroll so that a node is visible, or its start if it is too long. */
export function reveal(node) {
  node.scrollIntoView({ block: node.offsetHeight > innerHeight * 0.8 ? "start" : "nearest" });
}

/** Run a change of the layout, and let the nodes glide from where they were. */
export function moveSmoothly(nodes, isAnimated, change) {
  const before = nodes.map((node) => node.getBoundingClientRect().top);
  change();
  if (!isAnimated || still.matches) return;
  nodes.forEach((node, index) => {
    const way = before[index] - node.getBoundingClientRect().top;
    const steps = [{ transform: `translateY(${way}px)` }, { transform: "none" }];
    if (way) node.animate(steps, { duration: 180, easing: "ease-out" });
  });
}
