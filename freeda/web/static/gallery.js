// The view "Look into an index": prototypes of a noun or near a sentence, their neighbours, and an index
// without those that are marked.

import * as api from "./api.js";
import { byId, count, element, guarded, prototypeCard, showError } from "./dom.js";

const PAGE = 48;

export class GalleryView {
  constructor(about, onNewIndex) {
    this.onNewIndex = onNewIndex;
    this.marked = new Set();
    this.query = "";
    this.asked = new AbortController(); // for what is shown at present
    about.indexes.forEach((name) => this.addIndex(name));
    if (about.indexes.includes("toy")) byId("search-index").value = "toy";
    byId("search-index").addEventListener("change", guarded(() => this.open()));
    byId("search").addEventListener("submit", guarded((event) => {
      event.preventDefault();
      return this.#search(byId("query").value);
    }));
    byId("more").addEventListener("click", guarded(() => this.#more()));
    byId("without").addEventListener("submit", guarded((event) => {
      event.preventDefault();
      return this.#write();
    }));
  }

  get index() {
    return byId("search-index").value;
  }

  #path(rest = "") {
    return `indexes/${encodeURIComponent(this.index)}${rest}`;
  }

  addIndex(name) {
    byId("search-index").append(element("option", { text: name, value: name }));
  }

  // Answers that come after something else was asked for are dropped.
  #askAnew() {
    this.asked.abort();
    this.asked = new AbortController();
    return this.asked.signal;
  }

  // Shows what the chosen index holds.
  async open() {
    const signal = this.#askAnew();
    this.marked.clear();
    this.#tellMarked();
    byId("prototype").hidden = true;
    byId("prototypes").replaceChildren();
    byId("found").textContent = "";
    byId("more").hidden = true;
    const summary = await api.get(this.#path(), signal);
    showError(null);
    const parts = [count(summary.prototypes, "prototype"), count(summary.nouns, "noun"), count(summary.captions, "caption")];
    byId("summary").textContent = `${parts.join(", ")}; preset ${summary.preset}.`;
    byId("frequent").replaceChildren(
      ...summary.frequent.map(({ noun, count: times }) =>
        element("button", { type: "button", text: `${noun} ${times}`, onclick: guarded(() => this.#search(noun)) }),
      ),
    );
  }

  async #search(query) {
    byId("query").value = this.query = query;
    byId("prototypes").replaceChildren();
    await this.#more();
  }

  async #more() {
    const signal = this.#askAnew();
    const list = byId("prototypes");
    const asked = new URLSearchParams({ q: this.query, first: list.children.length, count: PAGE });
    const found = await api.get(this.#path(`/search?${asked}`), signal);
    showError(null);
    list.append(...found.rows.map((item) => this.#card(item)));
    byId("found").textContent = found.by === "noun"
      ? count(found.total, "prototype")
      : `Not a noun of this index; showing the ${list.children.length} nearest by text`;
    byId("more").hidden = list.children.length >= found.total || !found.rows.length;
  }

  #card(item) {
    const card = prototypeCard(this.index, item, guarded((row) => this.#look(row)));
    const box = element("input", { type: "checkbox", checked: this.marked.has(item.row) });
    box.addEventListener("change", () => {
      this.marked[box.checked ? "add" : "delete"](item.row);
      card.classList.toggle("marked", box.checked);
      this.#tellMarked();
    });
    card.classList.toggle("marked", box.checked);
    card.append(element("label", {}, box, " wrong"));
    return card;
  }

  async #look(row) {
    const item = await api.get(this.#path(`/rows/${row}`), this.asked.signal);
    showError(null);
    byId("prototype-noun").textContent = item.noun;
    Object.assign(byId("prototype-picture"), { src: `api/${this.#path(`/rows/${row}/picture`)}`, alt: item.caption });
    const area = `${(100 * item.area).toFixed(1)} % of the picture`;
    byId("prototype-text").textContent = `"${item.caption}"; the noun's mask covers ${area}; ${item.id}`;
    const look = guarded((other) => this.#look(other));
    byId("neighbors").replaceChildren(...item.neighbors.map((other) => prototypeCard(this.index, other, look)));
    byId("prototype").hidden = false;
  }

  #tellMarked() {
    const many = this.marked.size;
    byId("marked").textContent = many ? `${count(many, "prototype")} marked.` : "No prototype is marked.";
    byId("without").querySelector("button").disabled = !many;
  }

  async #write() {
    const made = await api.write(this.#path("/without"), { rows: [...this.marked], name: byId("new-name").value.trim() });
    showError(null);
    byId("written").textContent = `${made.folder}: ${count(made.prototypes, "prototype")}`;
    this.onNewIndex(made.name);
  }
}
