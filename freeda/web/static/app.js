// Starts the page and switches between its two views.

import * as api from "./api.js";
import { byId, guarded } from "./dom.js";
import { GalleryView } from "./gallery.js";
import { SegmentView } from "./segment.js";

const VIEWS = ["segment", "index"];

function choose(view) {
  for (const name of VIEWS) {
    const tab = byId(`tab-${name}`);
    tab.setAttribute("aria-selected", String(name === view));
    tab.tabIndex = name === view ? 0 : -1;
    byId(`view-${name}`).hidden = name !== view;
  }
}

function listenToTabs(onOpen) {
  for (const [number, name] of VIEWS.entries()) {
    const tab = byId(`tab-${name}`);
    const open = guarded(async () => {
      choose(name);
      await onOpen(name);
    });
    tab.addEventListener("click", open);
    tab.addEventListener("keydown", (event) => {
      if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
      const other = byId(`tab-${VIEWS[(number + 1) % VIEWS.length]}`);
      other.focus();
      other.click();
    });
  }
}

await guarded(async () => {
  const about = await api.get("about");
  const addIndex = (name) => [segment, gallery].forEach((view) => view.addIndex(name));
  const segment = new SegmentView(about, addIndex);
  const gallery = new GalleryView(about, addIndex);
  let opened = false;
  listenToTabs(async (name) => {
    if (name !== "index" || opened) return;
    opened = true;
    await gallery.open();
  });
  document.body.dataset.ready = "true";
})();
