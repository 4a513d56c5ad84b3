// The page, and the worker that runs the model, in one script. No photo leaves the browser.
const CDN = "https://cdn.jsdelivr.net/npm/onnxruntime-web@1.30.0/dist/"; // if not beside this file
const MIN_SIDE = 32, STROKE_SIDE = 768; // pixels, as in Python
if (typeof document === "undefined") startWorker();
else startPage();

async function startPage() {
  const $ = (id) => document.getElementById(id);
  const [canvas, result, strength, stroke] = ["photo", "result", "strength", "stroke"].map($);
  let styles, style, source, name, worker, busy = false, again = false;

  function say(text, { error = false, progress } = {}) {
    $("status").textContent = text;
    $("status").className = error ? "error" : "";
    $("progress").hidden = progress === undefined;
    if (progress > 0) $("progress").value = progress;
    else $("progress").removeAttribute("value"); // moves without an end
  }

  async function open(file) {
    const image = await createImageBitmap(file).catch(() => null);
    if (!image) return say(`${file.name} cannot be read: choose a JPEG, PNG, WebP or AVIF file.`, { error: true });
    const { width, height } = image;
    if (Math.min(width, height) < MIN_SIDE) {
      return say(`${file.name} has ${width}×${height} pixels; each side must have at least ${MIN_SIDE}.`, { error: true });
    }
    [source, name] = [image, file.name];
    showPhoto();
  }

  const openSample = async () => open(new File([await (await fetch("sample.jpg")).blob()], "sample.jpg"));

  function showPhoto() { // at the size of the result
    const sides = [source.width, source.height], shorter = Math.min(...sides);
    const scale = Math.min(1, Math.max($("size").value / Math.max(...sides), MIN_SIDE / shorter));
    const [width, height] = sides.map((side) => Math.round(side * scale));
    Object.assign(canvas, { width, height });
    $("view").style.setProperty("--aspect", width / height);
    const context = canvas.getContext("2d");
    Object.assign(context, { fillStyle: "#fff", imageSmoothingQuality: "high" });
    context.fillRect(0, 0, width, height); // below transparent pixels
    context.drawImage(source, 0, 0, width, height);
    stroke.max = Math.min(4, shorter * scale / MIN_SIDE);
    stroke.value = Math.max(1, shorter * scale / STROKE_SIDE);
    showValues();
    showResult(false);
    say("Choose a style.");
    paint();
  }

  const showValues = () => [strength, stroke].forEach((input) => (input.nextElementSibling.value = input.value));

  function showResult(visible) {
    for (const id of ["result", "split", "line"]) $(id).hidden = !visible;
    $("download").disabled = !visible;
  }

  function paint() { // with the latest settings: a result that comes too late is not shown
    if (!source || !style) return;
    again = busy;
    if (busy) return;
    busy = true;
    if (!worker) {
      worker = new Worker(import.meta.url, { type: "module" });
      worker.onmessage = ({ data }) => receive(data);
    }
    say("Stylizing …", { progress: 0 });
    const photo = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    worker.postMessage({ photo, code: styles[style].code, strength: +strength.value, stroke: +stroke.value });
  }

  function receive({ loaded, total, image, text, error }) {
    if (loaded < total) {
      return say(`Loading the model, once (${(total / 1e6).toFixed(0)} MB) …`, { progress: loaded / total });
    }
    if (loaded) return say("Stylizing …", { progress: 0 });
    busy = false;
    if (error) { // perhaps out of memory: the next photo gets a new worker
      worker.terminate();
      worker = null;
      return say(error, { error: true });
    }
    if (again) return paint();
    Object.assign(result, { width: image.width, height: image.height });
    result.getContext("2d").putImageData(image, 0, 0);
    result.setAttribute("aria-label", `Photo in the style ${style}`);
    showResult(true);
    say(text);
  }

  function take(event, files) { // a file that is dragged, dropped or pasted
    event.preventDefault();
    document.body.classList.toggle("dragging", event.type === "dragover");
    if (files?.length) open(files[0]);
  }

  function download(blob) {
    const link = document.createElement("a"), stem = name.replace(/\.[^.]*$/, "");
    Object.assign(link, { href: URL.createObjectURL(blob), download: `${stem}-${style}.png` }).click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }

  $("file").onchange = ({ target }) => target.files[0] && open(target.files[0]);
  $("sample").onclick = openSample;
  $("size").onchange = () => source && showPhoto();
  strength.oninput = stroke.oninput = showValues;
  strength.onchange = stroke.onchange = paint;
  $("list").onchange = ({ target }) => { style = target.value; paint(); };
  $("split").oninput = ({ target }) => $("view").style.setProperty("--split", `${target.value}%`);
  $("download").onclick = () => result.toBlob(download);
  for (const type of ["dragover", "dragleave"]) addEventListener(type, (event) => take(event));
  addEventListener("drop", (event) => take(event, event.dataTransfer.files));
  addEventListener("paste", (event) => take(event, event.clipboardData.files));

  styles = await (await fetch("styles.json")).json();
  for (const [key, { thumbnail }] of Object.entries(styles)) {
    const label = $("style").content.cloneNode(true);
    label.querySelector("input").value = label.querySelector("span").textContent = key;
    label.querySelector("img").src = thumbnail;
    $("list").append(label);
  }
  openSample();
}

function startWorker() {
  let ort, model, session, provider;

  async function load() {
    const gpu = await navigator.gpu?.requestAdapter().catch(() => null);
    provider = gpu && !gpu.info?.isFallbackAdapter ? "webgpu" : "wasm";
    const file = `ort.${provider}.bundle.min.mjs`, host = new URL(CDN).host;
    ort = await import(`./${file}`).catch(() => import(CDN + file)).catch(() => {
      throw Error(`onnxruntime-web cannot be loaded: ${file} is not beside this page, and ${host} cannot be reached.`);
    });
    model = await download("model.onnx");
  }

  async function download(address) {
    const response = await fetch(address), total = +response.headers.get("Content-Length"), chunks = [];
    if (!response.ok) throw Error(`${address} cannot be loaded: ${response.status} ${response.statusText}`);
    for (let loaded = 0, reader = response.body.getReader(), part; !(part = await reader.read()).done;) {
      chunks.push(part.value);
      postMessage({ loaded: loaded += part.value.length, total });
    }
    return new Uint8Array(await new Blob(chunks).arrayBuffer());
  }

  // Reduce (outer,length,inner) to (outer,target,inner) with torch's antialiased bilinear filter.
  function reduce(source, outer, length, inner, target) {
    const out = new Float32Array(outer * target * inner), scale = length / target;
    for (let i = 0; i < target; i++) {
      const center = (i + 0.5) * scale, weights = [];
      const first = Math.max(0, Math.trunc(center - scale + 0.5));
      for (let j = first; j < Math.min(length, Math.trunc(center + scale + 0.5)); j++) {
        weights.push(Math.max(0, 1 - Math.abs(j + 0.5 - center) / scale));
      }
      const sum = weights.reduce((a, b) => a + b);
      for (let o = 0; o < outer; o++) for (let k = 0; k < inner; k++) for (let j = 0; j < weights.length; j++) {
        out[(o * target + i) * inner + k] += weights[j] / sum * source[(o * length + first + j) * inner + k];
      }
    }
    return out;
  }

  async function paint({ photo: { data, width, height }, code, strength, stroke }) {
    session ??= await ort.InferenceSession.create(model, { executionProviders: [provider] });
    const start = performance.now(), size = width * height;
    const photo = new Float32Array(3 * size).map((_, i) => data[4 * (i % size) + Math.trunc(i / size)] / 255);
    const [w, h] = [width, height].map((side) => Math.round(side / stroke));
    const small = stroke > 1 ? reduce(reduce(photo, 3, height, width, h), 3 * h, width, 1, w) : photo;
    const tensor = (values, ...shape) => new ort.Tensor("float32", Float32Array.from(values), shape);
    const { stylized } = await session.run({
      photo: tensor(photo, 1, 3, height, width), reduced: tensor(small, 1, 3, h, w), code: tensor(code, 1, code.length),
      strength: tensor(new Float32Array(size).fill(strength), 1, 1, height, width),
    }, ["stylized"]);
    const pixels = new Uint8ClampedArray(4 * size).fill(255); // rounds
    stylized.data.forEach((value, i) => (pixels[4 * (i % size) + Math.trunc(i / size)] = 255 * value));
    const seconds = ((performance.now() - start) / 1000).toFixed(1);
    const unit = { webgpu: "WebGPU", wasm: "WebAssembly" }[provider];
    postMessage({ image: new ImageData(pixels, width, height), text: `${width}×${height} pixels, stylized in ${seconds} s (${unit}).` });
  }

  onmessage = async ({ data }) => {
    try {
      if (!model) await load();
      await paint(data).catch(async (error) => {
        if (provider === "wasm") throw error;
        [provider, session] = ["wasm", null]; // the graphics driver cannot run the model
        await paint(data);
      });
    } catch (error) {
      postMessage({ error: session ? `Stylization failed: choose a smaller result (${error.message}).` : error.message });
    }
  };
}
