// Tables whose rows stay: only what has changed is written. All text goes in as text, never as HTML.

/** An element with a class and text, or other children. */
export function element(name, kind, ...children) {
  const made = document.createElement(name);
  if (kind) made.className = kind;
  made.append(...children);
  return made;
}

/** Writes a text if it isn't there already. */
export function write(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** What makes empty rows for a table: each cell knows its column's name, for narrow screens. */
export function blank(table) {
  const labels = [...table.tHead.rows[0].cells].map((cell) => cell.textContent);
  return () => element("tr", "", ...labels.map((label) => {
    const cell = element("td");
    cell.dataset.label = label;
    return cell;
  }));
}

/** A time that has passed. */
export function ago(ms) {
  const [length, unit] = [[86_400_000, "d"], [3_600_000, "h"], [60_000, "min"], [1000, "s"]]
    .find(([length]) => ms >= 2 * length) ?? [1000, "s"];
  return `${Math.floor(ms / length)} ${unit} ago`;
}

/**
 * Keeps the rows of a table up to date. `key` names an item, `make` fills a new row's cells and returns what `update`,
 * called with that and the item, brings up to date.
 */
export function rows(table, key, make, update) {
  const body = table.tBodies[0];
  const empty = blank(table);
  const known = new Map();
  return (items) => {
    // First: what stays would otherwise be moved to before what goes.
    const keys = new Set(items.map(key));
    for (const [name, row] of known) {
      if (!keys.has(name)) {
        row.element.remove();
        known.delete(name);
      }
    }
    let next = body.firstElementChild;
    for (const item of items) {
      const name = key(item);
      let row = known.get(name);
      if (row === undefined) {
        const made = empty();
        row = { element: made, parts: make([...made.cells], item) };
        known.set(name, row);
      }
      // Only what isn't in its place is moved, so that nobody loses the focus.
      if (row.element === next) next = next.nextElementSibling;
      else body.insertBefore(row.element, next);
      update(row.parts, item, row.element);
    }
  };
}
