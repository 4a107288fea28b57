// Small helpers. Text is always set as text, never parsed as HTML.

export const byId = (id) => document.getElementById(id);

export function element(tag, { text, ...properties } = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  if (text !== undefined) made.textContent = text;
  made.append(...children);
  return made;
}

export function showError(error) {
  const place = byId("error");
  if (error?.name === "AbortError") return;
  place.textContent = error ? (error.message ?? String(error)) : "";
  place.hidden = !error;
}

// An event handler whose failure, at once or later, is shown to the user.
export const guarded = (handle) => async (...given) => {
  try {
    await handle(...given);
  } catch (error) {
    showError(error);
  }
};

export const percent = (share) => `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`;

export const count = (number, noun) => `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;

// The picture of a prototype with its caption; `onLook` is called when it is chosen.
export function prototypeCard(index, item, onLook) {
  const source = `api/indexes/${encodeURIComponent(index)}/rows/${item.row}/picture`;
  const picture = element("img", { src: source, alt: item.caption, loading: "lazy", width: 64, height: 64 });
  const shown = onLook
    ? element("button", { type: "button", className: "look", title: "Look closer", onclick: () => onLook(item.row) }, picture)
    : picture;
  return element("li", {}, shown, element("p", { text: item.noun }), element("p", { className: "hint", text: item.caption }));
}
