// Requests to the page's own server. Every failure is an Error with a sentence.

const UNREACHABLE = "the server does not answer; is `freeda serve` still running?";
const TRIES = 2; // browsers drop requests when the network changes, also those to their own machine
const PAUSE = 300; // milliseconds before a request is tried again

async function fetched(path, options, tries) {
  try {
    return await fetch(`api/${path}`, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    if (tries === 1) throw new Error(UNREACHABLE);
  }
  await new Promise((resolve) => setTimeout(resolve, PAUSE));
  return fetched(path, options, tries - 1);
}

async function answered(path, options, tries = TRIES) {
  const response = await fetched(path, options, tries);
  if (response.ok) return response;
  const told = await response.json().catch(() => ({}));
  throw new Error(told.error ?? `the server answered ${response.status}`);
}

export async function get(path, signal) {
  return (await answered(path, { signal })).json();
}

const asJson = (content) => ({
  method: "POST",
  headers: { "Content-Type": "application/json" },
  body: JSON.stringify(content),
});

export async function post(path, content, signal) {
  return (await answered(path, { ...asJson(content), signal })).json();
}

// A request that must not be made twice.
export async function write(path, content) {
  return (await answered(path, asJson(content), 1)).json();
}

export async function upload(file, name) {
  const options = { method: "POST", body: file, headers: { "Content-Type": "application/octet-stream" } };
  return (await answered(`images?name=${encodeURIComponent(name)}`, options)).json();
}

export async function bytes(path, signal) {
  return (await answered(path, { signal })).arrayBuffer();
}

export async function blob(path) {
  return (await answered(path)).blob();
}
