// Line charts of the last quarter of an hour, drawn as SVG once and then only moved.

const SVG = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT, LEFT, BOTTOM, TOP] = [360, 130, 50, 18, 8];
const FEWEST = 24; // Samples that it has room for, also soon after the start.

function svg(name, attributes, ...children) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

/** The smallest of 1, 2, 5, 10, 20 … that is not below `value`. */
function ceiling(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value * 0.999);
}

/** A chart of one or two columns. `show` writes a value with its unit. */
export function chart(title, names, least, show) {
  const curves = names.map((_, index) => svg("path", { class: index ? "curve second" : "curve" }));
  const labels = [0, 1].map(() => svg("text", { x: LEFT - 6, "text-anchor": "end" }));
  const cursor = svg("line", { class: "cursor", y1: TOP, y2: HEIGHT - BOTTOM, visibility: "hidden" });
  const grid = [TOP, HEIGHT - BOTTOM].map((y) => svg("line", { class: "grid", x1: LEFT, x2: WIDTH, y1: y, y2: y }));
  labels[0].setAttribute("y", TOP + 9);
  labels[1].setAttribute("y", HEIGHT - BOTTOM);
  const times = [["", LEFT, "start"], ["now", WIDTH, "end"]].map(([text, x, anchor]) =>
    svg("text", { x, y: HEIGHT - 3, "text-anchor": anchor }, text));
  const drawing = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img" }, ...grid, ...labels, ...times, ...curves, cursor);
  const caption = document.createElement("figcaption");
  const [heading, reading] = [document.createElement("span"), document.createElement("span")];
  heading.textContent = title;
  caption.append(heading, reading);
  const figure = document.createElement("figure");
  figure.append(caption, drawing);

  let columns = names.map(() => []);
  let interval = 5000;
  let pointed = null;
  const room = () => Math.max(columns[0].length, FEWEST);
  const x = (index, length) => LEFT + ((room() - length + index) / (room() - 1)) * (WIDTH - LEFT);
  const values = (index) => columns.map((column, one) => `${names[one]} ${show(column[index] ?? null)}`).join(", ");

  function read() {
    const length = columns[0].length;
    const index = pointed === null ? length - 1 : Math.round(pointed * (room() - 1)) - (room() - length);
    const known = pointed !== null && index >= 0 && index < length;
    cursor.setAttribute("visibility", known ? "visible" : "hidden");
    if (known) {
      const at = x(index, length);
      cursor.setAttribute("x1", at);
      cursor.setAttribute("x2", at);
    }
    const ago = known ? `${Math.round(((length - 1 - index) * interval) / 1000)} s ago: ` : "";
    reading.textContent = length ? ago + values(known ? index : length - 1) : "nothing yet";
  }
  drawing.addEventListener("pointermove", (event) => {
    const box = drawing.getBoundingClientRect();
    // The drawing keeps its proportions, in the middle of its box.
    const scale = Math.min(box.width / WIDTH, box.height / HEIGHT);
    const at = (event.clientX - box.left - (box.width - WIDTH * scale) / 2) / scale;
    pointed = Math.min(1, Math.max(0, (at - LEFT) / (WIDTH - LEFT)));
    read();
  });
  drawing.addEventListener("pointerleave", () => {
    pointed = null;
    read();
  });

  /** Shows other values; columns of one length, with null where nothing was measured. */
  function update(newest, every) {
    [columns, interval] = [newest, every];
    const top = ceiling(Math.max(least, ...columns.flat().map((value) => value ?? 0)));
    const y = (value) => HEIGHT - BOTTOM - (Math.min(value, top) / top) * (HEIGHT - BOTTOM - TOP);
    columns.forEach((column, one) => {
      let path = "";
      column.forEach((value, index) => {
        if (value === null) return;
        const begins = index === 0 || column[index - 1] === null;
        const point = `${x(index, column.length).toFixed(1)} ${y(value).toFixed(1)}`;
        // A value alone is a dot of its own.
        path += begins ? `M${point}h.1` : `L${point}`;
      });
      curves[one].setAttribute("d", path);
    });
    labels[0].textContent = show(top);
    labels[1].textContent = show(0);
    times[0].textContent = `${Math.round((room() * interval) / 60_000)} min ago`;
    drawing.setAttribute("aria-label", `${title}, the last 15 minutes; now ${values(columns[0].length - 1)}`);
    read();
  }
  return { figure, update };
}
