// The image under its classes: colours, outlines, a cross. Draws pixels of the image's own size.

import { byId } from "./dom.js";

const SMALL = 400; // sides below are shown in whole pixels

export class Stage {
  constructor({ onPoint, onHover }) {
    this.canvas = byId("canvas");
    this.context = this.canvas.getContext("2d");
    this.image = null;
    this.labels = null;
    this.segments = null;
    this.colors = [];
    this.lit = null;
    this.region = null;
    this.cross = null;
    this.shapes = []; // that are marked on this image, as a pencil gives them
    this.sketch = null; // the shape that is being drawn
    this.drawing = false; // whether the mouse draws
    this.opacity = 0.55;
    this.onPoint = onPoint;
    this.onHover = onHover;
    this.canvas.addEventListener("click", (event) => this.#point(event));
    this.canvas.addEventListener("mousemove", (event) => this.#hover(this.#pixel(event)));
    this.canvas.addEventListener("mouseleave", () => this.light(null));
    this.canvas.addEventListener("keydown", (event) => this.#key(event));
  }

  show(bitmap) {
    Object.assign(this.canvas, { width: bitmap.width, height: bitmap.height, hidden: false });
    this.canvas.classList.toggle("small", Math.max(bitmap.width, bitmap.height) < SMALL);
    this.context.drawImage(bitmap, 0, 0);
    this.image = this.context.getImageData(0, 0, bitmap.width, bitmap.height);
    this.clear();
    this.cross = null;
  }

  // labels: a number per pixel; colors: "#rrggbb" per number, others are drawn black.
  // segments: a number per pixel, between which borders are drawn; null for none.
  paint(labels, colors, segments) {
    this.labels = labels;
    this.segments = segments;
    this.colors = colors.map((text) => [1, 3, 5].map((at) => parseInt(text.slice(at, at + 2), 16)));
    this.region = null;
    this.draw();
  }

  clear() {
    Object.assign(this, { labels: null, region: null, lit: null });
    this.draw();
  }

  light(label) {
    if (label === this.lit) return;
    this.lit = label;
    this.onHover(label);
    this.draw();
  }

  // counts: lengths of runs of pixels outside, then inside, row after row.
  outline(counts) {
    this.region = new Uint8Array(this.canvas.width * this.canvas.height);
    let at = 0;
    counts.forEach((length, number) => {
      if (number % 2) this.region.fill(1, at, at + length);
      at += length;
    });
    this.draw();
  }

  draw() {
    if (!this.image) return;
    const { width, height, data } = this.image;
    const drawn = new ImageData(new Uint8ClampedArray(data), width, height);
    if (this.labels) this.#tint(drawn.data);
    if (this.labels && this.segments) this.#border(drawn.data);
    if (this.lit !== null && this.labels) this.#edge(drawn.data, (at) => this.labels[at] === this.lit, 255);
    if (this.region) this.#edge(drawn.data, (at) => this.region[at] === 1, 0);
    if (this.cross) this.#mark(drawn.data);
    this.drawn = drawn;
    this.overlay();
  }

  // Draws the shapes anew, over what was drawn last: at once for any size of image.
  overlay() {
    if (!this.drawn) return;
    this.context.putImageData(this.drawn, 0, 0);
    for (const shape of this.shapes) this.#outlineShape(shape);
    if (this.sketch) this.#outlineShape(this.sketch);
  }

  // Width of a stroke, in pixels of the image.
  get brush() {
    return Math.max(3, Math.round(Math.min(this.canvas.width, this.canvas.height) / 24));
  }

  #outlineShape({ box, stroke, width }) {
    const { context } = this;
    const line = Math.max(1, Math.round(this.canvas.width / 300));
    context.save();
    Object.assign(context, { lineCap: "round", lineJoin: "round", strokeStyle: "#fff", lineWidth: 2 * line });
    if (box) {
      context.strokeRect(...box);
      Object.assign(context, { strokeStyle: "#000", lineWidth: line });
      context.setLineDash([3 * line, 3 * line]);
      context.strokeRect(...box);
    } else {
      const path = new Path2D();
      path.moveTo(...stroke[0]);
      for (const point of [...stroke, stroke.at(-1)]) path.lineTo(...point);
      Object.assign(context, { globalAlpha: 0.6, lineWidth: width });
      context.stroke(path);
    }
    context.restore();
  }

  #border(pixels) {
    const { width } = this.canvas;
    for (let at = 0; at < this.segments.length; at += 1) {
      const right = (at + 1) % width ? at + 1 : at;
      const below = at + width < this.segments.length ? at + width : at;
      if (this.#parts(at, right) || this.#parts(at, below)) pixels.fill(255, 4 * at, 4 * at + 3);
    }
  }

  // Whether two pixels are of one class, and of two of its segments.
  #parts(one, other) {
    const [first, second] = [this.segments[one], this.segments[other]];
    return first !== second && first && second && this.labels[one] === this.labels[other];
  }

  #tint(pixels) {
    const share = this.opacity;
    for (let at = 0; at < this.labels.length; at += 1) {
      const color = this.colors[this.labels[at]] ?? [0, 0, 0];
      for (let channel = 0; channel < 3; channel += 1) {
        const place = 4 * at + channel;
        pixels[place] = pixels[place] * (1 - share) + color[channel] * share;
      }
    }
  }

  #edge(pixels, inside, shade) {
    const { width, height } = this.image;
    for (let at = 0; at < width * height; at += 1) {
      if (!inside(at)) continue;
      const column = at % width;
      const around = [
        column > 0 ? at - 1 : -1,
        column < width - 1 ? at + 1 : -1,
        at - width,
        at + width < width * height ? at + width : -1,
      ];
      if (around.some((other) => other < 0 || !inside(other))) pixels.fill(shade, 4 * at, 4 * at + 3);
    }
  }

  #mark(pixels) {
    const { width, height } = this.image;
    const reach = Math.max(2, Math.round(Math.max(width, height) / 60));
    for (let step = -reach; step <= reach; step += 1) {
      for (const [x, y] of [[this.cross.x + step, this.cross.y], [this.cross.x, this.cross.y + step]]) {
        if (x < 0 || y < 0 || x >= width || y >= height || step === 0) continue;
        pixels.fill(step % 2 ? 255 : 0, 4 * (y * width + x), 4 * (y * width + x) + 3);
      }
    }
  }

  // [x, y] under the mouse, in pixels of the image; null outside of it, unless it is to be held inside. The
  // canvas may be drawn smaller or larger, and centred.
  place(event, held = false) {
    const box = this.canvas.getBoundingClientRect();
    const scale = Math.min(box.width / this.canvas.width, box.height / this.canvas.height);
    const left = box.left + (box.width - scale * this.canvas.width) / 2;
    const top = box.top + (box.height - scale * this.canvas.height) / 2;
    const place = [(event.clientX - left) / scale, (event.clientY - top) / scale];
    const sides = [this.canvas.width, this.canvas.height];
    if (held) return place.map((value, axis) => Math.min(Math.max(value, 0), sides[axis]));
    return place.every((value, axis) => value >= 0 && value < sides[axis]) ? place : null;
  }

  #pixel(event) {
    const place = this.place(event);
    return place && { x: Math.floor(place[0]), y: Math.floor(place[1]) };
  }

  #hover(pixel) {
    if (!this.labels || this.drawing) return;
    const label = pixel && this.labels[pixel.y * this.canvas.width + pixel.x];
    this.light(label !== null && label < this.colors.length ? label : null);
  }

  #point(event) {
    const pixel = this.#pixel(event);
    if (!pixel || this.drawing) return;
    this.cross = pixel;
    this.draw();
    this.onPoint(pixel);
  }

  #key(event) {
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const { width, height } = this.canvas;
    if (event.key in steps) {
      event.preventDefault();
      const pace = Math.max(1, Math.round(Math.max(width, height) / (event.shiftKey ? 200 : 40)));
      const from = this.cross ?? { x: width >> 1, y: height >> 1 };
      const [right, down] = steps[event.key].map((step) => step * pace);
      const held = (value, most) => Math.min(Math.max(value, 0), most - 1);
      this.cross = { x: held(from.x + right, width), y: held(from.y + down, height) };
      this.#hover(this.cross);
      this.draw();
    } else if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      this.cross ??= { x: width >> 1, y: height >> 1 };
      this.draw();
      this.onPoint(this.cross);
    }
  }
}
