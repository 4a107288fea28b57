// Requests to the page's own server. Every failure is an Error with a sentence.

const UNREACHABLE = "the server does not answer; is `freeda serve` still running?";

async function answered(path, options) {
  let response;
  try {
    response = await fetch(`api/${path}`, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error(UNREACHABLE);
  }
  if (response.ok) return response;
  const told = await response.json().catch(() => ({}));
  throw new Error(told.error ?? `the server answered ${response.status}`);
}

export async function get(path, signal) {
  return (await answered(path, { signal })).json();
}

export async function post(path, content, signal) {
  const headers = { "Content-Type": "application/json" };
  const options = { method: "POST", headers, body: JSON.stringify(content), signal };
  return (await answered(path, options)).json();
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
