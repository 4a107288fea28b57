// The view "Segment": an image, class names, and why a pixel has its class.

import * as api from "./api.js";
import { Chips } from "./chips.js";
import { byId, element, guarded, percent, prototypeCard, showError } from "./dom.js";
import { Marks } from "./marks.js";
import { Stage } from "./stage.js";

const WAIT = 120; // milliseconds after the last change before the server is asked

export class SegmentView {
  // onNewIndex: is called with the name of an index that was written.
  constructor(about, onNewIndex) {
    this.about = about;
    this.image = null;
    this.result = null;
    this.pixel = null; // the one that is explained
    this.asked = null;
    this.timer = 0;
    this.stage = new Stage({ onPoint: guarded((pixel) => this.#point(pixel)), onHover: (label) => this.#light(label) });
    this.chips = new Chips(() => this.#changed());
    this.marks = new Marks(this.stage, {
      onChange: (name) => {
        if (name) this.chips.add([name]);
        this.#changed();
      },
      onNewIndex,
    });
    this.#fillChoices();
    this.#listenForImages();
    byId("opacity").addEventListener("input", (event) => {
      this.stage.opacity = event.target.value / 100;
      this.stage.draw();
    });
    for (const id of ["index", "method", "background"]) byId(id).addEventListener("change", () => this.#changed());
  }

  addIndex(name) {
    byId("index").append(element("option", { text: name, value: name }));
  }

  #fillChoices() {
    this.about.indexes.forEach((name) => this.addIndex(name));
    if (this.about.indexes.includes("toy")) byId("index").value = "toy";
    byId("method").replaceChildren(...this.about.methods.map(({ name }) => element("option", { text: name, value: name })));
    byId("examples").replaceChildren(
      ...this.about.examples.map(({ name, classes }, number) => {
        const picture = element("img", { src: `api/examples/${name}`, alt: `Example ${number + 1}`, width: 64, height: 64 });
        const choose = guarded(async () => {
          await this.#open(await api.blob(`examples/${name}`), name);
          if (!this.chips.entries.length) this.chips.add(classes);
        });
        return element("button", { type: "button", onclick: choose }, picture);
      }),
    );
  }

  #listenForImages() {
    const drop = byId("drop");
    byId("file").addEventListener("change", guarded(async (event) => {
      const [file] = event.target.files;
      event.target.value = "";
      if (file) await this.#open(file, file.name);
    }));
    for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
      drop.addEventListener(kind, (event) => {
        event.preventDefault();
        drop.classList.toggle("over", kind === "dragenter" || kind === "dragover");
      });
    }
    drop.addEventListener("drop", guarded(async (event) => {
      const [file] = event.dataTransfer.files;
      if (!file) throw new Error("that is no image file; drop one from a folder");
      await this.#open(file, file.name);
    }));
  }

  async #open(file, name) {
    const most = this.about.limits.upload_bytes;
    if (file.size > most) throw new Error(`${name} is larger than the limit of ${most.toLocaleString("en")} bytes`);
    byId("status").textContent = `reading ${name} ...`;
    const opening = (this.opening = Symbol(name));
    try {
      const image = await api.upload(file, name);
      const bitmap = await createImageBitmap(await api.blob(`images/${image.image}`));
      if (this.opening !== opening) return; // another image was chosen meanwhile
      showError(null);
      this.image = image;
      this.pixel = null;
      this.#forgetResult();
      this.stage.show(bitmap);
      this.marks.show(image);
    } finally {
      if (this.opening === opening) byId("status").textContent = this.image ? this.#size() : "";
    }
    byId("empty").hidden = true;
    byId("drop").classList.add("filled");
    byId("image-controls").hidden = byId("tools").hidden = byId("own").hidden = false;
    this.#changed(0);
  }

  #size() {
    return `${this.image.name}, ${this.image.width} x ${this.image.height} pixels`;
  }

  #forgetResult() {
    this.result = null;
    byId("legend").replaceChildren();
    byId("downloads").hidden = byId("why").hidden = true;
  }

  #changed(wait = WAIT) {
    const method = byId("method").value;
    this.retrieves = this.about.methods.find(({ name }) => name === method).retrieves;
    byId("index").disabled = !this.retrieves;
    this.marks.allow(this.retrieves);
    clearTimeout(this.timer);
    this.asked?.abort();
    if (this.image && this.chips.entries.length) byId("status").textContent = "segmenting ...";
    this.timer = setTimeout(guarded(() => this.#segment()), wait);
  }

  async #segment() {
    if (!this.image) return;
    if (!this.chips.entries.length) {
      showError(null);
      this.#forgetResult();
      this.stage.clear();
      byId("status").textContent = `${this.#size()}; type a class to look for`;
      return;
    }
    const asked = (this.asked = new AbortController());
    const question = {
      image: this.image.image,
      classes: this.chips.entries,
      method: byId("method").value,
      index: byId("index").value,
      background: byId("background").checked,
      marks: this.retrieves ? this.marks.asked : [],
    };
    try {
      const result = await api.post("segment", question, asked.signal);
      const labels = new Uint16Array(await api.bytes(`results/${result.result}/labels.u16`, asked.signal));
      const segments = result.panoptic
        ? new Uint16Array(await api.bytes(`results/${result.result}/segments.u16`, asked.signal))
        : null;
      showError(null);
      this.#show({ ...result, index: question.index }, labels, segments);
      if (this.pixel && result.explains) await this.#explain(this.pixel);
    } catch (error) {
      if (error.name !== "AbortError") byId("status").textContent = this.#size();
      throw error;
    }
  }

  #show(result, labels, segments) {
    this.result = result;
    byId("why").hidden = true;
    this.stage.paint(labels, result.classes.map((item) => item.color), segments);
    byId("status").textContent = `${this.#size()}; ${result.milliseconds} ms`;
    byId("legend").replaceChildren(...result.segments.map((item) => this.#legendLine(item)));
    const stem = this.image.name.replace(/\.[^.]*$/, "") || "image";
    for (const link of byId("downloads").querySelectorAll("a")) {
      link.href = `api/results/${result.result}/${link.dataset.file}`;
      link.download = `${stem}.${link.dataset.file}`;
    }
    byId("downloads").hidden = false;
  }

  #legendLine(item) {
    const things = (this.result.panoptic ?? []).filter((one) => one.thing && one.class === item.id).length;
    const swatch = element("span", { className: "swatch" });
    swatch.style.background = this.result.classes[item.id].color;
    const line = element(
      "li",
      { onmouseenter: () => this.stage.light(item.id), onmouseleave: () => this.stage.light(null) },
      swatch,
      element("span", { className: "name", text: things > 1 ? `${item.label} × ${things}` : item.label }),
      element("span", { className: "share", text: percent(item.share), title: "Share of the image" }),
      element("span", { className: "score", text: item.score.toFixed(2), title: "Mean score" }),
    );
    line.dataset.label = item.id;
    return line;
  }

  #light(label) {
    for (const line of byId("legend").children) line.classList.toggle("lit", Number(line.dataset.label) === label);
  }

  // By keyboard, a pencil in hand takes the place; else its pixel is explained.
  async #point(pixel) {
    if (this.stage.drawing) this.marks.pencil.corner(pixel);
    else await this.#explain(pixel);
  }

  // Where a new result is on its way, it is explained once it is there.
  async #explain({ x, y }) {
    this.pixel = { x, y };
    if (!this.result) return;
    if (!this.result.explains) throw new Error("this method cannot explain its results; choose freeda");
    const { result, index } = this.result;
    const why = await api.post("explain", { result, x, y });
    if (this.result?.result !== result) return;
    showError(null);
    const [best] = why.candidates;
    byId("why-pixel").textContent = `Pixel ${x}, ${y} lies in a region of ${why.region_pixels.toLocaleString("en")} pixels. Best: ${best.class}.`;
    byId("candidates").tBodies[0].replaceChildren(...why.candidates.map((item) => this.#candidate(item)));
    byId("votes").replaceChildren(...why.prototypes.map((item) => prototypeCard(index, item)));
    byId("why-votes").hidden = !why.prototypes.length;
    this.stage.outline(why.region.counts);
    byId("why").hidden = false;
  }

  #candidate(item) {
    const meter = element("meter", { min: 0, max: 1, value: item.score, ariaLabel: `${item.class}: ${item.score}` });
    return element(
      "tr",
      {},
      element("td", { text: item.class }),
      element("td", {}, meter, ` ${item.score.toFixed(3)}`),
    );
  }
}
