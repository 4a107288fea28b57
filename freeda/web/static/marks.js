// What is marked on images by the user: shapes with names, which FreeDA looks for like prototypes of its index.

import * as api from "./api.js";
import { byId, count, element, guarded, showError } from "./dom.js";
import { Pencil } from "./pencil.js";

const CROSS = "The image with its classes. Arrow keys move the cross,";
const CANVAS = {
  explain: `${CROSS} Enter explains the pixel under it.`,
  box: `${CROSS} Enter at two places marks the box between them.`,
  stroke: `${CROSS} Enter at two places marks the line between them.`,
};
const TOOLS = Object.keys(CANVAS);

export class Marks {
  // onChange: is called with the name of a new mark, or without where one was removed.
  // onNewIndex: is called with the name of an index that was written.
  constructor(stage, { onChange, onNewIndex }) {
    this.stage = stage;
    this.onChange = onChange;
    this.onNewIndex = onNewIndex;
    this.image = null; // the one that is shown
    this.list = [];
    this.pending = null;
    this.pencil = new Pencil(stage, (shape) => this.#ask(shape));
    for (const tool of TOOLS) byId(`tool-${tool}`).addEventListener("click", () => this.#choose(tool));
    byId("name-mark").addEventListener("submit", guarded((event) => {
      event.preventDefault();
      this.#add(byId("mark-name").value.trim());
    }));
    byId("drop-mark").addEventListener("click", () => {
      this.#ask(null);
      this.stage.canvas.focus();
    });
    byId("with-marks").addEventListener("submit", guarded((event) => {
      event.preventDefault();
      return this.#write();
    }));
  }

  // As the server takes them.
  get asked() {
    return this.list.map(({ image, name, shape }) => ({ image: image.image, name, ...shape }));
  }

  show(image) {
    this.image = image;
    this.pencil.choose(this.pencil.tool); // what was begun on another image is dropped
    this.#ask(null);
  }

  // Whether the chosen method retrieves; others cannot use marks.
  allow(possible) {
    if (!possible) {
      this.#choose("explain");
      this.#ask(null);
    }
    for (const tool of TOOLS) byId(`tool-${tool}`).disabled = !possible;
    byId("marks-hint").textContent = possible
      ? "Draw on the image and name what you marked. FreeDA then finds similar objects, in this image and in others."
      : "Only methods that retrieve use what you mark; choose freeda.";
  }

  #choose(chosen) {
    for (const tool of TOOLS) byId(`tool-${tool}`).setAttribute("aria-pressed", String(tool === chosen));
    this.pencil.choose(chosen === "explain" ? null : chosen);
    this.stage.canvas.ariaLabel = CANVAS[chosen];
  }

  // Asks for the name of a shape; null for none.
  #ask(shape) {
    this.pending = shape;
    byId("name-mark").hidden = !shape;
    byId("mark-name").value = "";
    if (shape) byId("mark-name").focus();
    this.#draw();
  }

  #add(name) {
    if (!name) throw new Error("say what you marked, for example: owl");
    if (/[,;]/.test(name)) throw new Error("a mark has one name; leave out commas and semicolons");
    showError(null);
    this.list.push({ image: this.image, name, shape: this.pending });
    this.#ask(null);
    this.#tell();
    this.stage.canvas.focus();
    this.onChange(name);
  }

  #remove(mark) {
    this.list = this.list.filter((other) => other !== mark);
    this.#draw();
    this.#tell();
    (byId("marks").querySelector("button") ?? this.stage.canvas).focus();
    this.onChange();
  }

  #draw() {
    const own = this.list.filter(({ image }) => image.image === this.image?.image).map(({ shape }) => shape);
    this.stage.shapes = this.pending ? [...own, this.pending] : own;
    this.stage.overlay();
  }

  #tell() {
    byId("marks").replaceChildren(...this.list.map((mark) => this.#line(mark)));
    byId("with-marks").hidden = !this.list.length;
  }

  #line(mark) {
    const what = `${mark.name} in ${mark.image.name}`;
    const remove = element("button", {
      type: "button", className: "remove", text: "×", title: `Remove ${what}`, ariaLabel: `Remove ${what}`, onclick: () => this.#remove(mark),
    });
    return element("li", {}, element("span", { className: "name", text: what }), remove);
  }

  async #write() {
    const [index, button, told] = [byId("index").value, byId("with-marks").querySelector("button"), byId("with-written")];
    const question = { name: byId("with-name").value.trim(), marks: this.asked };
    button.disabled = true;
    told.textContent = "writing ...";
    try {
      const made = await api.write(`indexes/${encodeURIComponent(index)}/with`, question);
      showError(null);
      told.textContent = `${made.folder}: ${count(made.prototypes, "prototype")}, ${made.added} of them new`;
      this.onNewIndex(made.name);
      this.#take(made.name);
    } catch (error) {
      told.textContent = "";
      throw error;
    } finally {
      button.disabled = false;
    }
  }

  // From now on, the new index knows what was marked.
  #take(index) {
    byId("index").value = index;
    this.list = [];
    this.#draw();
    this.#tell();
    this.onChange();
  }
}
