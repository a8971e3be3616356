// The cards of the responses: what they show, and their order on the page.

import { element, icon, textBlock } from "./showing.js";
import * as ranking from "./ranking.js";

/** The card of a response; `run` has what its buttons do, each called with the response's number. */
export function buildCard(content, one, count, flagNames, run) {
  const name = `Response ${one + 1}`, isRankable = count > 1;
  const button = (className, label, act, ...children) =>
    element("button", { type: "button", className, ariaLabel: label, onclick: act && (() => act(one)) }, ...children);
  const parts = {
    name,
    rank: button("rank", "", run.toggleRank, element("span", {})),
    tied: element("span", { className: "tied" }),
    tie: button("quiet", "", run.toggleTie),
    open: button("quiet", "", run.showFlags),
    chips: flagNames.map((flag, index) => element(
      "button", { type: "button", className: "chip", onclick: () => run.toggleFlag(one, index) },
      element("kbd", {}, String(index + 1)), flag,
    )),
  };
  parts.flags = element("div", { className: "flags", role: "group", ariaLabel: `Flags of ${name}` }, ...parts.chips);
  const tools = element("div", { className: "tools" },
    button("", `Move ${name} up`, run.moveUp, icon("up")),
    button("", `Move ${name} down`, run.moveDown, icon("down")),
    button("handle", `Drag ${name}; arrow keys move it`, null, icon("handle")));
  const title = element("h3", {}, name, ...(one < 9 ? [element("kbd", {}, String(one + 1))] : []));
  const top = element("div", { className: "top" }, parts.rank, title, parts.tied, tools);
  const edit = button("quiet", `Edit ${name}`, run.writeAnswer, "Edit");
  const bottom = element("div", { className: "bottom" }, ...(isRankable ? [parts.tie, edit] : []),
    ...(flagNames.length ? [parts.open, parts.flags] : []));
  const card = element("article", { className: "card", tabIndex: 0 });
  card.append(...(isRankable ? [top] : []), ...textBlock(content), bottom);
  for (const event of ["focusin", "pointerdown"]) card.addEventListener(event, () => run.choose(one));
  return Object.assign(card, { parts });
}

export function renderCard(card, one, order, own, isOpen, isChosen) {
  const { name, rank: circle, tied, tie, open, flags, chips } = card.parts;
  const rank = ranking.ranks(order)[one], next = order.ranked.flat().length + 1, isTied = ranking.isTied(order, one);
  const facts = [name, rank === null ? "no rank" : `rank ${rank}`, isTied && "tied"];
  if (own.length) facts.push(`flags: ${own.join(", ")}`);
  card.ariaLabel = facts.filter(Boolean).join(", ");
  card.classList.toggle("chosen", isChosen);
  circle.classList.toggle("given", rank !== null);
  circle.firstChild.textContent = rank ?? next;
  circle.ariaLabel = rank === null ? `${name}: give rank ${next}` : `${name}: clear rank ${rank} and those below`;
  tied.textContent = isTied ? "tied" : "";
  tie.textContent = isTied ? "Untie" : "Tie with above";
  tie.ariaLabel = isTied ? `Untie ${name}` : `Tie ${name} with the one above`;
  tie.hidden = !isTied && ranking.order(order)[0] === one;
  open.textContent = own.length ? `Flags (${own.length})` : "Flag";
  open.ariaLabel = `Flag ${name}`;
  open.ariaExpanded = String(isOpen);
  flags.hidden = !isOpen && !own.length;
  flags.classList.toggle("open", isOpen);
  for (const chip of chips) {
    const isSet = own.includes(chip.lastChild.data);
    chip.ariaPressed = String(isSet);
    chip.hidden = !isOpen && !isSet;
  }
}

/** Bring the cards into the order of a ranking, and keep the focus. */
export function placeCards(cards, order, lists) {
  const focused = document.activeElement;
  for (const [list, groups] of [[lists.ranked, order.ranked], [lists.rest, order.rest.map((one) => [one])]]) {
    const own = groups.map((group) => group.map((one) => cards[one]));
    const isSame = list.children.length === own.length
      && own.every((group, index) => group.length === list.children[index].children.length
        && group.every((card, place) => card === list.children[index].children[place]));
    const item = (group) => element("li", { className: group.length > 1 ? "tie" : "" }, ...group);
    if (!isSame) list.replaceChildren(...own.map(item));
    list.hidden = !own.length;
  }
  if (focused !== document.activeElement && focused.isConnected) focused.focus({ preventScroll: true });
}
