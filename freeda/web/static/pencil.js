// Draws a box or a stroke on the image: with the mouse, a finger, or by Enter at two places.

const APART = 1; // least distance of a stroke's points, in pixels of the image
const MOST = 100; // points of a stroke that are sent

const rounded = (value) => Math.round(10 * value) / 10;

// At most MOST of some points, evenly, the last one among them.
function thinned(points) {
  const every = Math.ceil(points.length / MOST);
  return points.filter((_, number) => number % every === 0 || number === points.length - 1);
}

export class Pencil {
  // onShape: is given { box: [left, top, width, height] } or { stroke: [[x, y], ...], width }.
  constructor(stage, onShape) {
    this.stage = stage;
    this.onShape = onShape;
    this.tool = null;
    this.points = null; // of what is being drawn
    this.pointer = null; // the one that draws
    const { canvas } = stage;
    canvas.addEventListener("pointerdown", (event) => this.#begin(event));
    canvas.addEventListener("pointermove", (event) => this.#go(event));
    canvas.addEventListener("pointerup", (event) => this.#end(event));
    canvas.addEventListener("pointercancel", () => this.#forget());
  }

  // tool: "box", "stroke", or null for none.
  choose(tool) {
    this.tool = tool;
    this.stage.drawing = tool !== null;
    this.stage.canvas.classList.toggle("drawing", this.stage.drawing);
    this.#forget();
  }

  // By keyboard: the first call is one end, the second the other.
  corner({ x, y }) {
    const point = [x + 0.5, y + 0.5];
    if (!this.points) {
      this.points = [point];
      this.#show();
    } else if (this.tool === "box" && point.some((value, axis) => value === this.points[0][axis])) {
      throw new Error("a box needs two corners in different rows and columns; move the cross and press Enter");
    } else {
      this.#finish([this.points[0], point]);
    }
  }

  #begin(event) {
    if (!this.tool || event.button !== 0 || this.pointer !== null) return;
    const point = this.stage.place(event);
    if (!point) return;
    this.stage.canvas.setPointerCapture(event.pointerId);
    this.pointer = event.pointerId;
    this.points = [point];
    this.#show();
  }

  #go(event) {
    if (!this.points || event.pointerId !== this.pointer) return;
    const point = this.stage.place(event, true);
    const [x, y] = this.points.at(-1);
    if (this.tool === "box") this.points = [this.points[0], point];
    else if (Math.hypot(point[0] - x, point[1] - y) >= APART) this.points.push(point);
    this.#show();
  }

  #end(event) {
    if (!this.points || event.pointerId !== this.pointer) return;
    this.#finish(this.points);
  }

  #finish(points) {
    const shape = this.#shape(points);
    this.#forget();
    if (shape.box && (shape.box[2] < 1 || shape.box[3] < 1)) return; // a click is no box
    this.onShape(shape);
  }

  #shape(points) {
    if (this.tool === "stroke") return { stroke: thinned(points).map((point) => point.map(rounded)), width: this.stage.brush };
    const [[left, top], [right, bottom]] = [points[0], points.at(-1)];
    const box = [Math.min(left, right), Math.min(top, bottom), Math.abs(right - left), Math.abs(bottom - top)];
    return { box: box.map(rounded) };
  }

  #show() {
    this.stage.sketch = this.#shape(this.points);
    this.stage.overlay();
  }

  #forget() {
    this.points = this.pointer = this.stage.sketch = null;
    this.stage.overlay();
  }
}
