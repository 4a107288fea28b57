// Class names as chips: one chip per class, with its synonyms.

import { byId, element } from "./dom.js";

const namesOf = (entry) => entry.split(",").map((name) => name.trim()).filter(Boolean);

const key = (name) => name.toLowerCase();

// The entries, where names of a new one that an old one has too make both one class.
function merged(entries, fresh) {
  const classes = entries.map(namesOf);
  for (const names of fresh.map(namesOf).filter((names) => names.length)) {
    const same = classes.find((known) => known.some((name) => names.some((other) => key(other) === key(name))));
    const held = same ?? [];
    for (const name of names) if (!held.some((known) => key(known) === key(name))) held.push(name);
    if (!same) classes.push(held);
  }
  return classes.map((names) => names.join(", "));
}

export class Chips {
  constructor(onChange) {
    this.entries = [];
    this.onChange = onChange;
    this.input = byId("class-input");
    this.input.addEventListener("keydown", (event) => this.#key(event));
    this.input.addEventListener("input", () => {
      if (/[;\n]/.test(this.input.value)) this.#take();
    });
    this.input.addEventListener("paste", (event) => {
      const text = event.clipboardData.getData("text");
      if (!/[;\n]/.test(text)) return;
      event.preventDefault();
      this.add(text.split(/[;\n]/));
    });
    this.input.addEventListener("change", () => this.#take());
  }

  // Adds classes; names of one that is there already become its synonyms.
  add(fresh) {
    const entries = merged(this.entries, fresh);
    if (entries.join(";") !== this.entries.join(";")) this.#set(entries);
  }

  #key(event) {
    if (event.key === "Enter") {
      event.preventDefault();
      this.#take();
    } else if (event.key === "Backspace" && !this.input.value && this.entries.length) {
      this.#set(this.entries.slice(0, -1));
    }
  }

  #take() {
    const text = this.input.value;
    this.input.value = "";
    this.add(text.split(/[;\n]/));
  }

  #set(entries) {
    this.entries = entries;
    byId("chips").replaceChildren(...entries.map((entry) => this.#chip(entry)));
    this.onChange();
  }

  #chip(entry) {
    const without = () => this.entries.filter((other) => other !== entry);
    const edit = () => {
      this.#set(without());
      this.input.value = entry;
      this.input.focus();
    };
    const remove = () => {
      this.#set(without());
      this.input.focus();
    };
    return element(
      "span",
      { className: "chip" },
      element("button", { type: "button", className: "name", title: "Edit", text: entry, onclick: edit }),
      element("button", { type: "button", className: "remove", title: `Remove ${entry}`, ariaLabel: `Remove ${entry}`, text: "×", onclick: remove }),
    );
  }
}
