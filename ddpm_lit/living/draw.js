// A model that draws in the page: from noise, from a picture that was lost in it, or around a hole. Chapters 11 and 12.
import { frame, hand, make, picture, slider } from './common.js';

const SIZE = 176, FINE = 8;   // of a picture on the page; of a pixel, where it is drawn by hand
const WHAT = { noise: 'an image from noise', lost: 'a picture, lost and found again', hole: 'a picture with a hole' };
const megabytes = bytes => `${(bytes/1e6).toFixed(1)} MB`;

const small = (x, [channels, high, wide], hole = []) => {   // a canvas with a pixel for each; x in [-1, 1], flat
  const data = new ImageData(wide, high), n = high*wide;
  for (let k = 0; k<n; k++) {
    for (let c = 0; c<3; c++) data.data[4*k+c] = (x[(channels===3)*c*n + k]+1)*127.5;
    if (hole[k]) data.data.set([187, 85, 102], 4*k);
    data.data[4*k+3] = 255;
  }
  const canvas = Object.assign(document.createElement('canvas'), { width: wide, height: high });
  canvas.getContext('2d').putImageData(data, 0, 0);
  return canvas;
};

const paint = (pen, side, ...image) => {   // large, each pixel a square
  pen.imageSmoothingEnabled = false;
  pen.drawImage(small(...image), 0, 0, side, side);
};

const pad = (canvas, pen) => {   // a picture to draw in, and a hole in it
  const ink = document.createElement('canvas'), brush = ink.getContext('2d', { willReadFrequently: true });
  let shape = [1, 8, 8], hole = new Uint8Array(64), last = null, down = false, digs = false;
  const read = () => {   // each pixel is the mean of its fine ones
    const [channels, high, wide] = shape, n = high*wide, x = new Float32Array(channels*n).fill(-1);
    const { data } = brush.getImageData(0, 0, wide*FINE, high*FINE);
    for (let j = 0; j<high*FINE; j++) for (let i = 0; i<wide*FINE; i++)
      for (let c = 0; c<channels; c++)
        x[c*n + Math.floor(j/FINE)*wide + Math.floor(i/FINE)] += data[4*(j*wide*FINE + i) + c]/FINE**2/127.5;
    return x;
  };
  const show = () => {
    paint(pen, SIZE, read(), shape, hole);
    if (!last || document.activeElement!==canvas) return;
    pen.strokeStyle = down ? '#bb5566' : '#888888';
    pen.strokeRect((last[0]-.5)*SIZE/shape[2], (last[1]-.5)*SIZE/shape[1], SIZE/shape[2], SIZE/shape[1]);
  };
  const line = (from, to) => {   // in pixels of the image
    const [, high, wide] = shape, far = Math.max(1, Math.ceil(2*Math.hypot(to[0]-from[0], to[1]-from[1])));
    if (!digs) {
      Object.assign(brush, { strokeStyle: 'white', lineWidth: FINE*Math.max(1.3, wide/10), lineCap: 'round' });
      brush.beginPath();
      brush.moveTo(...from.map(v => v*FINE));
      brush.lineTo(to[0]*FINE, to[1]*FINE+.01);   // a line of no length leaves no dot
      brush.stroke();
    } else for (let s = 0; s<=far; s++) for (let k = 0; k<high*wide; k++) {
      const [x, y] = from.map((v, c) => v + (to[c]-v)*s/far);
      if (Math.hypot(k%wide+.5-x, Math.floor(k/wide)+.5-y)<wide/8) hole[k] = 1;
    }
  };
  const go = (to, draws) => {
    if (draws) line(last || to, to);
    last = to;
    show();
  };
  canvas.addEventListener('pointerdown', () => last = null);
  hand(canvas, (right, below) => go([right*shape[2], below*shape[1]], true), (right, up) => {
    const [x, y] = last || [shape[2]/2, shape[1]/2];
    go([Math.max(0, Math.min(shape[2], x+right)), Math.max(0, Math.min(shape[1], y-up))], down);
  });
  canvas.addEventListener('keydown', e => {
    if (e.key!==' ') return;
    e.preventDefault();
    down = !down;
    go(last || [shape[2]/2, shape[1]/2], down);
  });
  const clear = () => {
    brush.fillStyle = 'black';
    brush.fillRect(0, 0, ink.width, ink.height);
    hole.fill(0);
    last = null;
    show();
  };
  return {
    read, clear, hole: () => hole,
    digs: yes => { digs = yes; down = false; },
    begin: to => {   // for images of another shape
      shape = to;
      hole = new Uint8Array(shape[1]*shape[2]);
      Object.assign(ink, { width: shape[2]*FINE, height: shape[1]*FINE });
      clear();
    },
    take: x => {   // an image instead of what was drawn
      paint(brush, ink.width, x, shape);
      hole.fill(0);
      show();
    },
  };
};

export default { render({ model, el }) {
  const { runtime, models } = model.get('world');
  if (!models) return;   // the site was built without them, and says so
  const still = matchMedia('(prefers-reduced-motion: reduce)').matches;
  let worker = null, table = null, x_0 = null, turn = 0, began = 0, seen = 0, moment = null;

  const { box, side } = frame(el), row = make('div', box), views = {};
  row.style.cssText = 'display: flex; gap: .5rem; min-width: 0';
  for (const [name, title] of Object.entries({ yours: 'your picture', x_t: 'x_t, on its way', x_0: 'what it expects' })) {
    const part = make('figure', row);
    Object.assign(part.style, { margin: 0, flex: `0 1 ${SIZE}px`, minWidth: 0 });
    views[name] = { part, ...picture(part, SIZE, SIZE, name==='yours' ?
      'Your picture: drag to draw, or move with the arrow keys; the space bar lowers and lifts the pen' : title) };
    Object.assign(views[name].canvas.style, { background: 'black', imageRendering: 'pixelated' });
    if (name!=='yours') { views[name].canvas.removeAttribute('tabindex'); views[name].canvas.setAttribute('role', 'img'); }
    make('figcaption', part, {}, title);
  }
  const yours = pad(views.yours.canvas, views.yours.pen);
  box.append(side);
  const choose = (name, options, told) => {
    const select = make('select'), whole = make('label', side, {}, name, ' ', select);
    whole.style.display = 'block';
    for (const [value, text] of options) make('option', select, { value }, text);
    select.onchange = told;
    return { select, whole };
  };
  const what = choose('draw', Object.entries(WHAT), () => settle());
  const which = choose('model', models.map(({ file, name }) => [file, name]), () => settle());
  const by = choose('computed by', [['wasm', 'the processor'], ['webgpu', 'the graphics card']], () => settle());
  by.whole.hidden = !navigator.gpu;
  const load = make('button', side, { onclick: () => {
    if (moment) stop();
    load.disabled = true;
    load.textContent = 'loading ...';
    if (by.select.value!==table?.by) { worker?.terminate(); table = worker = null; }   // another runtime
    worker ??= begin();
    worker.postMessage({ load: which.select.value, by: by.select.value });
  } });
  const way = choose('by', [], () => {});
  const label = choose('label', [], () => settle());
  const push = slider(side, 'guidance w', { min: 0, max: 4, step: .5, value: 1 }, () => settle());
  const time = slider(side, 't', { min: 1, max: 1000, value: 500 }, () => settle());
  const seed = make('input', null, { type: 'number', min: 0, max: 2**32-1, value: 0 });
  make('label', side, {}, 'seed ', seed).style.display = 'block';
  const go = make('button', null, { onclick: () => draw() }, 'draw');
  const take = make('button', null, { onclick: () => { yours.take(x_0); settle(); } }, 'take it as your picture');
  const wipe = make('button', null, { onclick: yours.clear }, 'wipe');
  make('p', side, {}, go, ' ', take, ' ', wipe);
  const says = make('div', side, { ariaLive: 'polite' });

  const loaded = () => table?.file===which.select.value && table.by===by.select.value;
  const visited = () => [...new Set(table.ways[way.select.value].steps.map(row => row[0]))];   // times, falling
  const settle = () => {   // what is shown, and what can be pressed
    const { bytes } = models.find(({ file }) => file===which.select.value), kind = what.select.value, { bytes: its, packed } = runtime[by.select.value];
    load.hidden = loaded();
    load.disabled = false;
    load.textContent = `load it: ${megabytes(bytes)}` +
      (table?.by===by.select.value ? '' : `, and once ${megabytes(its)} for what runs it (${megabytes(packed)} if the server packs it)`);
    for (const e of [go, way.select, label.select, push.input, time.input, seed]) e.disabled = !loaded();
    take.disabled = wipe.disabled = !loaded();
    take.hidden = !x_0 || kind==='noise' || !loaded();
    wipe.hidden = views.yours.part.hidden = kind==='noise';
    time.input.parentNode.style.display = kind==='lost' ? 'block' : 'none';
    label.whole.hidden = !table?.classes.length;
    push.input.parentNode.style.display = table?.classes.length && +label.select.value>=0 ? 'block' : 'none';
    push.shown.textContent = push.input.value;
    time.shown.textContent = time.input.value;
    yours.digs(kind==='hole');
  };
  const nearest = t => visited().reduce((a, b) => Math.abs(b-t)<Math.abs(a-t) ? b : a);

  const stop = () => { worker.postMessage({ stop: true }); rest(); says.textContent = 'stopped'; };
  const draw = () => {
    if (moment) { stop(); return; }
    const kind = what.select.value, order = { way: way.select.value, seed: +seed.value, label: +label.select.value,
      guidance: +push.input.value };
    if (kind!=='noise') order.picture = yours.read();
    if (kind==='lost') order.t = nearest(+time.input.value);
    if (kind==='hole') order.hole = yours.hole();
    turn++; seen = 0; began = performance.now();
    moment = { kind, calls: table.ways[order.way].steps.filter(row => !order.t || row[0]<=order.t).length };
    go.textContent = 'stop';
    worker.postMessage({ draw: order, turn });
  };
  const rest = () => { moment = null; go.textContent = 'draw'; settle(); };
  const show = state => {
    if (!moment || state.turn!==turn) return;
    const { kind, calls } = moment, spent = performance.now()-began;
    if (kind==='lost' ? !seen : !still) paint(views.x_t.pen, SIZE, state.x_t, table.shape);
    if (!still || !state.t) paint(views.x_0.pen, SIZE, state.x_0, table.shape);
    says.textContent = state.t ? `t = ${state.t}: step ${++seen} of ${calls}` :
      `${calls} steps in ${(spent/1000).toFixed(1)} s`;
    if (state.t) return;
    if (kind!=='lost') paint(views.x_t.pen, SIZE, state.x_t, table.shape);
    x_0 = state.x_0;
    rest();
  };
  const hear = ({ data }) => {
    if (data.error) { says.textContent = `it did not work: ${data.error}`; rest(); return; }
    if (!data.table) { show(data); return; }
    table = { ...data.table, file: data.file, by: data.by };
    x_0 = null;
    way.select.replaceChildren(...Object.keys(table.ways).map(name => make('option', null, { value: name }, name)));
    label.select.replaceChildren(...['any', ...table.classes].map((name, k) => make('option', null, { value: k-1 }, name)));
    Object.assign(time.input, { max: table.T, value: table.T/2 });
    yours.begin(table.shape);
    for (const view of [views.x_t, views.x_0]) view.pen.clearRect(0, 0, SIZE, SIZE);
    says.textContent = 'it is there: draw';
    settle();
  };
  const begin = () => Object.assign(new Worker(new URL('./worker.js', import.meta.url), { type: 'module' }), {
    onmessage: hear,
    onerror: () => { says.textContent = 'what runs the models could not be loaded'; worker = table = null; settle(); },
  });
  el.figure = { image: () => x_0 && [...x_0], picture: () => [...yours.read()], hole: () => [...yours.hole()],
    drawing: () => !!moment, time: () => nearest(+time.input.value) };
  settle();
} };
