// A network in ONNX, away from the page's own thread. It is told { load } or { draw }, and tells every state.
import * as ort from '../models/ort.wasm.bundle.min.mjs';
import { chain } from './sampler.js';

ort.env.wasm.numThreads = 1;   // more need headers that plain servers do not send
ort.env.wasm.wasmPaths = { wasm: new URL('../models/ort-wasm-simd-threaded.wasm', import.meta.url).href };
let network, table, turn = null;

const load = async name => {
  const home = new URL(`../models/${name}/`, import.meta.url).href;
  [network, table] = await Promise.all([
    ort.InferenceSession.create(`${home}unet.onnx`),
    fetch(`${home}sampler.json`).then(r => r.json())]);
  return { table, file: name };
};

const answers = (label, guidance) => async (x_t, t) => {   // as `Guided` of chapter 12, two images at once
  const guided = label>=0 && guidance>0, n = guided ? 2 : 1, of = { t: Array(n).fill(t), classes: [label, table.nothing].slice(0, n) };
  const x = new Float32Array(n*x_t.length);
  for (let k = 0; k<n; k++) x.set(x_t, k*x_t.length);
  const feeds = { x_t: new ort.Tensor('float32', x, [n, ...table.shape]) };
  for (const name of ['t', ...table.told])
    feeds[name] = new ort.Tensor('int64', BigInt64Array.from(of[name], BigInt), [n]);
  const { data } = (await network.run(feeds)).answer;
  return guided ? x_t.map((_, i) => (1+guidance)*data[i] - guidance*data[i+x_t.length]) : data;
};

const draw = async (mine, { way, label = table.nothing, guidance = 0, ...how }) => {
  turn = mine;
  for await (const state of chain(answers(label, guidance), table, way, how)) {
    postMessage({ turn, ...state });
    await new Promise(go => setTimeout(go));   // so that another order is heard
    if (turn!==mine) return;
  }
};

onmessage = async ({ data }) => {
  try {
    if (data.load) postMessage(await load(data.load));
    else if (data.stop) turn = null;
    else await draw(data.turn, data.draw);
  } catch (error) { postMessage({ error: String(error) }); }
};
