// Dragging a card with a mouse, a pen or a finger: by its handle, or with a mouse by its top.

import { reveal } from "./showing.js";

const START = 5; // pixels until a press is a drag
const EDGE = 70; // pixels from the edge of the window in which it scrolls
const KINDS = ["before", "tie", "after"];

/** `cards()` gives the cards by number; `drop(one, other, where)` is called with "before", "tie" or "after". */
export function startDrags(area, { cards, drop }) {
  area.addEventListener("pointerdown", (press) => {
    const card = press.target.closest(".card"), handle = press.target.closest(".handle");
    const isTop = press.pointerType === "mouse" && press.target.closest(".top") && !press.target.closest("button");
    const one = cards().indexOf(card);
    if (one < 0 || press.button !== 0 || cards().length < 2 || !(handle || isTop)) return;
    follow(area, card, press, cards(), (other, where) => drop(one, other, where));
  });
}

function follow(area, card, press, cards, onDrop) {
  const source = press.target;
  let isDragging = false, grip = 0, target = null, pointer = press.clientY, frame = 0;
  source.setPointerCapture(press.pointerId);
  const cancel = () => end(false);
  const listeners = {
    pointermove: onMove, pointerup: () => end(true), pointercancel: cancel, lostpointercapture: cancel,
  };
  for (const [name, listen] of Object.entries(listeners)) source.addEventListener(name, listen);
  document.addEventListener("keydown", onKey, true);

  function begin() {
    isDragging = true;
    const top = card.getBoundingClientRect().top;
    area.classList.add("sorting"); // long texts collapse, so that all cards are near
    card.classList.add("dragged");
    grip = Math.min(Math.max(0, press.clientY - top), card.offsetHeight - 8);
    scrollBy({ top: card.getBoundingClientRect().top + grip - pointer, behavior: "instant" });
    frame = requestAnimationFrame(scrollAtEdges);
  }

  function onMove(move) {
    pointer = move.clientY;
    if (!isDragging && Math.abs(pointer - press.clientY) > START) begin();
    if (isDragging) update();
  }

  function update() {
    card.style.transform = "none";
    const own = card.getBoundingClientRect();
    card.style.transform = `translateY(${pointer - grip - own.top}px)`;
    clearMarks();
    target = null;
    if (pointer >= own.top && pointer <= own.bottom) return; // back where it was
    cards.forEach((other, index) => {
      const { top, height } = other.getBoundingClientRect();
      const part = (pointer - top) / height, distance = Math.max(-part, part - 1, 0) * height;
      if (other === card || (target && target.distance <= distance)) return;
      target = { index, distance, where: KINDS[part < 0.3 ? 0 : part > 0.7 ? 2 : 1] };
    });
    cards[target.index].classList.add(`drop-${target.where}`);
    area.classList.toggle("tying", target.where === "tie");
  }

  function clearMarks() {
    area.classList.remove("tying");
    for (const other of cards) other.classList.remove(...KINDS.map((kind) => `drop-${kind}`));
  }

  function scrollAtEdges() {
    const below = innerHeight - EDGE - (document.getElementById("actions")?.offsetHeight || 0);
    const way = pointer < EDGE ? pointer - EDGE : pointer > below ? pointer - below : 0;
    if (way) {
      scrollBy({ top: way / 6, behavior: "instant" });
      update();
    }
    frame = requestAnimationFrame(scrollAtEdges);
  }

  function onKey(event) {
    if (event.key !== "Escape") return;
    event.preventDefault();
    event.stopPropagation();
    end(false);
  }

  function end(isDropped) {
    for (const [name, listen] of Object.entries(listeners)) source.removeEventListener(name, listen);
    document.removeEventListener("keydown", onKey, true);
    cancelAnimationFrame(frame);
    area.classList.remove("sorting");
    card.classList.remove("dragged");
    card.style.transform = "";
    clearMarks();
    if (!isDragging) return;
    if (isDropped && target) onDrop(target.index, target.where);
    reveal(card);
  }
}
