// The page, and the worker that runs the model, in one script. No data leaves the browser.
const CDN = "https://cdn.jsdelivr.net/npm/onnxruntime-web@1.30.0/dist/"; // unless beside this file
const MIN_SIDE = 32, STROKE_SIDE = 768; // pixels, as in Python

if (typeof document === "undefined") startWorker();
else startPage();

async function startPage() {
  const $ = (id) => document.getElementById(id);
  const [canvas, result, strength, stroke] = ["photo", "result", "strength", "stroke"].map($);
  let styles, style, source, name, worker, busy = false, again = false;

  const say = (text, error = false) => {
    $("status").textContent = text;
    $("status").classList.toggle("error", error);
  };
  const showProgress = (visible, value) => {
    $("progress").hidden = !visible;
    if (value) $("progress").value = value;
    else $("progress").removeAttribute("value");
  };
  const showOutputs = () => {
    for (const input of [strength, stroke]) input.nextElementSibling.value = input.value;
  };
  const showSplit = () => $("view").style.setProperty("--split", `${$("split").value}%`);
  const showResult = (visible) => {
    for (const id of ["result", "split", "line"]) $(id).hidden = !visible;
    $("download").disabled = !visible;
  };

  function fitPhoto() { // draw the photo at the size of the result
    const scale = Math.min(1, $("size").value / Math.max(source.width, source.height));
    const [width, height] = [source.width, source.height].map((side) => Math.round(side * scale));
    const side = Math.min(width, height);
    if (side < MIN_SIDE) {
      throw Error(`${name} has ${width}×${height} pixels; each side needs at least ${MIN_SIDE}.`);
    }
    Object.assign(canvas, { width, height });
    const context = canvas.getContext("2d");
    context.fillStyle = "#fff"; // below transparent pixels
    context.fillRect(0, 0, width, height);
    context.imageSmoothingQuality = "high";
    context.drawImage(source, 0, 0, width, height);
    stroke.max = Math.min(4, side / MIN_SIDE);
    stroke.value = Math.max(1, side / STROKE_SIDE);
    showOutputs();
    showResult(false);
  }

  async function open(file) {
    try {
      [source, name] = [await createImageBitmap(file), file.name];
    } catch {
      return say(`${file.name} cannot be read as an image: choose a JPEG, PNG, WebP or AVIF file.`, true);
    }
    refit();
  }

  function refit() {
    try {
      fitPhoto();
      say("Choose a style.");
      paint();
    } catch (error) {
      source = null;
      say(error.message, true);
    }
  }

  async function openSample() {
    open(new File([await (await fetch("sample.jpg")).blob()], "sample.jpg"));
  }

  function paint() { // the latest settings win
    if (!source || !style) return;
    again = busy;
    if (busy) return;
    busy = true;
    if (!worker) {
      worker = new Worker(import.meta.url, { type: "module" });
      worker.onmessage = ({ data }) => receive(data);
      worker.onerror = () => receive({ error: "The script could not be started." });
    }
    say("Painting …");
    showProgress(true);
    const { width, height } = canvas;
    const photo = canvas.getContext("2d").getImageData(0, 0, width, height);
    worker.postMessage({ photo, code: styles[style].code, strength: +strength.value, stroke: +stroke.value });
  }

  function receive({ loaded, total, image, text, error }) {
    if (total) {
      const size = (total / 1e6).toFixed(0);
      say(`Loading the model, once (${size} MB) …`);
      return showProgress(true, loaded / total);
    }
    if (text && !image) return say(text);
    busy = false;
    showProgress(false);
    if (error) {
      worker.terminate();
      worker = null;
      return say(error, true);
    }
    if (image.width === canvas.width && image.height === canvas.height) { // not of an earlier photo
      Object.assign(result, { width: image.width, height: image.height });
      result.getContext("2d").putImageData(image, 0, 0);
      result.setAttribute("aria-label", `Result in the style ${style}`);
      showResult(true);
      say(text);
    }
    if (again) paint();
  }

  $("file").onchange = ({ target }) => target.files[0] && open(target.files[0]);
  $("sample").onclick = openSample;
  $("size").onchange = refit;
  strength.oninput = stroke.oninput = showOutputs;
  strength.onchange = stroke.onchange = paint;
  $("split").oninput = showSplit;
  $("list").onchange = ({ target }) => { style = target.value; paint(); };
  $("download").onclick = () => result.toBlob((blob) => {
    const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob) });
    link.download = `${name.replace(/\.[^.]*$/, "")}-${style}.png`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });
  const dragging = (on) => (event) => {
    event.preventDefault();
    document.body.classList.toggle("dragging", on);
  };
  addEventListener("dragover", dragging(true));
  addEventListener("dragleave", dragging(false));
  const drop = (event, files) => {
    dragging(false)(event);
    if (files.length) open(files[0]);
  };
  addEventListener("drop", (event) => drop(event, event.dataTransfer.files));
  addEventListener("paste", (event) => drop(event, event.clipboardData.files));

  styles = await (await fetch("styles.json")).json();
  for (const [key, { thumbnail }] of Object.entries(styles)) {
    const [label, input, image, text] = ["label", "input", "img", "span"].map((tag) => document.createElement(tag));
    Object.assign(input, { type: "radio", name: "style", value: key });
    Object.assign(image, { src: thumbnail, alt: "" });
    text.textContent = key;
    label.append(input, image, text);
    $("list").append(label);
  }
  openSample();
}

function startWorker() {
  let ort, model, session, provider;

  async function load() {
    const gpu = await navigator.gpu?.requestAdapter().catch(() => null);
    provider = gpu ? "webgpu" : "wasm";
    const file = `ort.${provider}.bundle.min.mjs`;
    ort = await import(`./${file}`).catch(() => import(CDN + file)).catch(() => {
      throw Error(`The runtime could not be loaded: ${file} is not beside this page, and ${new URL(CDN).host} cannot be reached.`);
    });
    model = await download("model.onnx");
    postMessage({ text: "Painting …" });
    await start();
  }

  async function start() {
    session = await ort.InferenceSession.create(model, { executionProviders: [provider] });
  }

  async function download(address) {
    const response = await fetch(address);
    if (!response.ok) throw Error(`${address} could not be loaded: ${response.status} ${response.statusText}.`);
    const total = +response.headers.get("Content-Length"), chunks = [];
    let loaded = 0;
    for (let reader = response.body.getReader(), part; !(part = await reader.read()).done;) {
      chunks.push(part.value);
      postMessage({ loaded: (loaded += part.value.length), total });
    }
    return new Uint8Array(await new Blob(chunks).arrayBuffer());
  }

  // Reduce (outer,length,inner) to (outer,target,inner) as torch's antialiased bilinear filter does.
  function shrink(source, outer, length, inner, target) {
    const out = new Float32Array(outer * target * inner), scale = length / target;
    for (let i = 0; i < target; i++) {
      const center = (i + 0.5) * scale, first = Math.max(0, Math.trunc(center - scale + 0.5));
      const weights = [];
      for (let j = first; j < Math.min(length, Math.trunc(center + scale + 0.5)); j++) {
        weights.push(Math.max(0, 1 - Math.abs(j + 0.5 - center) / scale));
      }
      const sum = weights.reduce((a, b) => a + b);
      for (let o = 0; o < outer; o++) for (let k = 0; k < inner; k++) {
        let value = 0;
        weights.forEach((weight, j) => (value += weight * source[(o * length + first + j) * inner + k]));
        out[(o * target + i) * inner + k] = value / sum;
      }
    }
    return out;
  }

  async function paint({ photo: { data, width, height }, code, strength, stroke }) {
    if (!session) await load();
    const start = performance.now(), size = width * height;
    const photo = new Float32Array(3 * size).map((_, i) => data[4 * (i % size) + Math.trunc(i / size)] / 255);
    const [w, h] = [width, height].map((side) => Math.round(side / stroke));
    const reduced = stroke > 1 ? shrink(shrink(photo, 3, height, width, h), 3 * h, width, 1, w) : photo;
    const tensor = (values, ...shape) => new ort.Tensor("float32", values, shape);
    const { stylized } = await session.run({
      photo: tensor(photo, 1, 3, height, width), reduced: tensor(reduced, 1, 3, h, w),
      code: tensor(Float32Array.from(code), 1, code.length),
      strength: tensor(new Float32Array(size).fill(strength), 1, 1, height, width),
    }, ["stylized"]);
    const pixels = new Uint8ClampedArray(4 * size).fill(255);
    for (let c = 0; c < 3; c++) for (let i = 0; i < size; i++) pixels[4 * i + c] = 255 * stylized.data[c * size + i];
    const seconds = ((performance.now() - start) / 1000).toFixed(1);
    const unit = { webgpu: "WebGPU", wasm: "WebAssembly" }[provider];
    postMessage({ image: new ImageData(pixels, width, height), text: `${width}×${height} pixels, painted in ${seconds} s (${unit}).` });
  }

  onmessage = async ({ data }) => {
    try {
      await paint(data).catch(async (error) => {
        if (provider !== "webgpu" || !model) throw error;
        provider = "wasm"; // the device or driver cannot run the model
        await start();
        await paint(data);
      });
    } catch (error) {
      postMessage({ error: session ? `Painting failed; choose a smaller result. (${error.message})` : error.message });
    }
  };
}
