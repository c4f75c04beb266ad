// Boxes drawn on a picture with the mouse, a finger or a pen. props.value is [[x, y, width, height], ...] in pixels.
const NAMESPACE = "http://www.w3.org/2000/svg";
let drawing = null;

function place(event, svg) {
  const frame = svg.getBoundingClientRect();
  const clamp = (value, top) => Math.min(Math.max(value, 0), top);
  return [
    clamp(((event.clientX - frame.left) / frame.width) * props.width, props.width),
    clamp(((event.clientY - frame.top) / frame.height) * props.height, props.height),
  ];
}

function rectangle([x0, y0], [x1, y1]) {
  return [Math.min(x0, x1), Math.min(y0, y1), Math.abs(x1 - x0), Math.abs(y1 - y0)].map((v) => Math.round(v * 10) / 10);
}

element.addEventListener("pointerdown", (event) => {
  const svg = event.target.closest("svg.boxes");
  if (!svg || event.button !== 0) return;
  event.preventDefault();
  const shape = document.createElementNS(NAMESPACE, "rect");
  svg.appendChild(shape);
  drawing = { svg, shape, from: place(event, svg) };
  svg.setPointerCapture(event.pointerId);
});

element.addEventListener("pointermove", (event) => {
  if (!drawing) return;
  const [x, y, width, height] = rectangle(drawing.from, place(event, drawing.svg));
  for (const [name, value] of Object.entries({ x, y, width, height })) drawing.shape.setAttribute(name, value);
});

element.addEventListener("pointerup", (event) => {
  if (!drawing) return;
  const box = rectangle(drawing.from, place(event, drawing.svg));
  drawing.shape.remove();
  drawing = null;
  const least = Math.max(2, Math.min(props.width, props.height) / 100); // a click is no box
  if (box[2] >= least && box[3] >= least) props.value = [...(props.value || []), box];
});

element.addEventListener("pointercancel", () => {
  if (drawing) drawing.shape.remove();
  drawing = null;
});

element.addEventListener("click", (event) => {
  const action = event.target.closest("[data-action]")?.dataset.action;
  if (action === "undo") props.value = (props.value || []).slice(0, -1);
  if (action === "whole") props.value = [];
});
