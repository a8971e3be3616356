// The order of the responses: ranked groups, best first (a group with several is a tie), and the rest without a rank.
// All functions return a new ranking and leave the given one as it was. A response is named by its number as shown.

export function empty(count) {
  return settle([...Array(count).keys()].map((one) => [one]), 0);
}

/** The first `count` groups get a rank; a single response that is left over gets the last one. */
function settle(groups, count) {
  const ranked = groups.slice(0, count);
  const rest = groups.slice(count).flat();
  return rest.length === 1 ? { ranked: [...ranked, rest], rest: [] } : { ranked, rest };
}

function without({ ranked, rest }, one) {
  const left = ranked.map((group) => group.filter((other) => other !== one)).filter((group) => group.length);
  return { groups: [...left, ...rest.filter((other) => other !== one).map((other) => [other])], count: left.length };
}

function visible({ ranked, rest }) {
  return [...ranked, ...rest.map((one) => [one])];
}

function indexOf(ranking, one) {
  return visible(ranking).findIndex((group) => group.includes(one));
}

export function order(ranking) {
  return visible(ranking).flat();
}

export function isRanked({ rest }, one) {
  return !rest.includes(one);
}

export function isTied({ ranked }, one) {
  return ranked.some((group) => group.length > 1 && group.includes(one));
}

/** Put one before the group at `index`, counted without it; what is above it gets a rank too. */
export function insert(ranking, one, index) {
  const { groups, count } = without(ranking, one);
  groups.splice(index, 0, [one]);
  return settle(groups, index <= count ? count + 1 : index + 1);
}

/** Give one the next rank. */
export function place(ranking, one) {
  return isRanked(ranking, one) ? ranking : insert(ranking, one, ranking.ranked.length);
}

/** Move one by a group, up (-1) or down (1); out of a tie first. */
export function move(ranking, one, step) {
  const index = indexOf(ranking, one);
  const target = isTied(ranking, one) ? index + (step > 0) : index + step;
  return insert(ranking, one, Math.max(0, Math.min(target, without(ranking, one).groups.length)));
}

/** Tie one with another. */
export function join(ranking, one, other) {
  const { groups, count } = without(ranking, one);
  const index = groups.findIndex((group) => group.includes(other));
  groups[index] = [...groups[index], one];
  return settle(groups, Math.max(count, index + 1));
}

/** Tie one with the group above it, or take it out of its tie. */
export function toggleTie(ranking, one) {
  const index = indexOf(ranking, one);
  if (isTied(ranking, one)) return insert(ranking, one, index + 1);
  return index > 0 ? join(ranking, one, visible(ranking)[index - 1][0]) : ranking;
}

export function tieRest({ ranked, rest }) {
  return { ranked: rest.length ? [...ranked, rest] : ranked, rest: [] };
}

/** Drop a response before or after another one; between the responses of a tie means into the tie. */
export function drop(ranking, one, other, where) {
  const { groups } = without(ranking, one);
  const index = groups.findIndex((group) => group.includes(other));
  const place = groups[index].indexOf(other) + (where === "after" ? 1 : 0);
  const isInside = place > 0 && place < groups[index].length;
  if (where === "tie" || isInside) return join(ranking, one, other);
  return insert(ranking, one, index + (where === "after" ? 1 : 0));
}

/** Clear the rank at an index and those below it; never leaves a single response without a rank. */
export function clearFrom({ ranked, rest }, index) {
  let kept = ranked.slice(0, Math.max(0, index));
  const cleared = () => [...ranked.slice(kept.length).flat(), ...rest];
  while (kept.length && cleared().length === 1) kept = kept.slice(0, -1);
  return { ranked: kept, rest: cleared().sort((a, b) => a - b) };
}

export function groupIndex(ranking, one) {
  return ranking.ranked.findIndex((group) => group.includes(one));
}

/** The ranks by number as shown: 1 is best, ties are equal and the next rank skips (1, 2, 2, 4); null without one. */
export function ranks({ ranked, rest }) {
  const found = Array(ranked.flat().length + rest.length).fill(null);
  let rank = 1;
  for (const group of ranked) {
    for (const one of group) found[one] = rank;
    rank += group.length;
  }
  return found;
}

/** The ranking with these ranks. */
export function fromRanks(given) {
  const values = [...new Set(given.filter((rank) => rank !== null))].sort((a, b) => a - b);
  const where = (rank) => given.flatMap((own, one) => (own === rank ? [one] : []));
  return settle([...values.map(where), ...where(null).map((one) => [one])], values.length);
}
