// A network in ONNX, away from the page's own thread. It is told { load } or { draw }, and tells every state.
import { chain } from './sampler.js';

const PARTS = {
  wasm: ['ort.wasm.bundle.min.mjs', 'ort-wasm-simd-threaded.wasm'],
  webgpu: ['ort.webgpu.bundle.min.mjs', 'ort-wasm-simd-threaded.asyncify.wasm'],
};
const home = name => new URL(`../models/${name}`, import.meta.url).href;
let ort, network, table, turn = null, before = Promise.resolve();

const load = async (name, by) => {
  const [script, wasm] = PARTS[by];
  ort = await import(home(script));
  ort.env.logLevel = 'error';
  // more threads need headers that plain servers do not send
  Object.assign(ort.env.wasm, { numThreads: 1, wasmPaths: { wasm: home(wasm) } });
  await network?.release();
  network = null;   // if the next one cannot be fetched, there is none
  [network, table] = await Promise.all([
    ort.InferenceSession.create(home(`${name}/unet.onnx`), { executionProviders: [by], logSeverityLevel: 3 }),
    fetch(home(`${name}/sampler.json`)).then(r => r.json())]);
  return { table, file: name, by };
};

const answers = (label, guidance) => async (x_t, t) => {   // as `Guided` of chapter 12, two images at once
  const guided = label>=0 && guidance>0, n = guided ? 2 : 1;
  const of = { t: Array(n).fill(t), classes: [label, -1].slice(0, n) };
  const x = new Float32Array(n*x_t.length);
  for (let k = 0; k<n; k++) x.set(x_t, k*x_t.length);
  const feeds = { x_t: new ort.Tensor('float32', x, [n, ...table.shape]) };
  for (const name of ['t', ...table.told])
    feeds[name] = new ort.Tensor('int64', BigInt64Array.from(of[name], BigInt), [n]);
  const { data } = (await network.run(feeds)).answer;
  return guided ? x_t.map((_, i) => (1+guidance)*data[i] - guidance*data[i+x_t.length]) : data;
};

const draw = async (mine, { way, label = -1, guidance = 0, ...how }) => {
  for await (const state of chain(answers(label, guidance), table, way, how)) {
    if (turn!==mine) return;
    postMessage({ turn: mine, ...state });
    await new Promise(go => setTimeout(go));   // so that another order is heard
  }
};

const obey = async ({ load: name, by, draw: order, turn: mine }) => {
  try {
    if (name) postMessage(await load(name, by));
    else await draw(mine, order);
  } catch (error) { postMessage({ turn: mine, error: String(error) }); }
};

onmessage = ({ data }) => {   // one order after the other; a new one ends the drawing before
  turn = data.turn ?? null;
  if (!data.stop) before = before.then(() => obey(data));
};
