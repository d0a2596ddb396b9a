// A model that draws in the page: from noise, from a picture that was lost in it, or around a hole. Chapters 11 to 13.
import { frame, hand, make, picture, slider, still } from './common.js';

const SIZE = 224, FINE = 8;   // of a picture on the page; of a pixel, where it is drawn by hand
const KINDS = {
  noise: 'an image from noise',
  lost: 'your picture, lost and found again',
  hole: 'your picture with a hole',
};
const TITLES = { yours: 'your picture', x_t: 'x_t', x_0: 'what it expects' };
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
  let shape = [1, 8, 8], hole = new Uint8Array(64), last = null, down = false, digs = false, keys = false;
  const read = () => {   // each pixel is the mean of its fine ones
    const [channels, high, wide] = shape, n = high*wide, x = new Float32Array(channels*n).fill(-1);
    const { data } = brush.getImageData(0, 0, wide*FINE, high*FINE);
    for (let j = 0; j<high*FINE; j++) for (let i = 0; i<wide*FINE; i++)
      for (let c = 0; c<channels; c++)
        x[c*n + Math.floor(j/FINE)*wide + Math.floor(i/FINE)] += data[4*(j*wide*FINE + i) + c]/FINE**2/127.5;
    return x;
  };
  const show = () => {
    paint(pen, SIZE, read(), shape, digs ? hole : []);
    if (!keys || !last) return;
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
      if (Math.hypot(k%wide+.5-x, Math.floor(k/wide)+.5-y)<wide/12) hole[k] = 1;
    }
  };
  const go = (to, draws) => {
    if (draws) line(last || to, to);
    last = to;
    show();
  };
  canvas.style.cursor = 'crosshair';
  canvas.addEventListener('pointerdown', () => { last = null; keys = false; });
  hand(canvas, (right, below) => go([right*shape[2], below*shape[1]], true), (right, up) => {
    const [x, y] = last || [shape[2]/2, shape[1]/2];
    keys = true;
    go([Math.max(0, Math.min(shape[2], x+right)), Math.max(0, Math.min(shape[1], y-up))], down);
  });
  canvas.addEventListener('keydown', e => {
    if (e.key!==' ') return;
    e.preventDefault();
    keys = true;
    down = !down;
    go(last || [shape[2]/2, shape[1]/2], down);
  });
  canvas.addEventListener('blur', () => { keys = false; show(); });
  const wipe = () => {   // the hole, while holes are made; else the picture
    if (!digs) {
      brush.fillStyle = 'black';
      brush.fillRect(0, 0, ink.width, ink.height);
    }
    hole.fill(0);
    last = null;
    show();
  };
  return {
    read, wipe, hole: () => hole,
    digs: yes => { digs = yes; down = false; show(); },
    begin: to => {   // for images of another shape
      shape = to;
      hole = new Uint8Array(shape[1]*shape[2]);
      Object.assign(ink, { width: shape[2]*FINE, height: shape[1]*FINE });
      brush.fillRect(0, 0, ink.width, ink.height);   // black, as a new pen is
      last = null;
      show();
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
  const motionless = matchMedia('(prefers-reduced-motion: reduce)').matches;
  let worker = null, table = null, runs = null, loading = false, turn = 0, began = 0, t = 500;
  let states = [], calls = 0, drawing = false;   // of the image that is drawn, or was drawn last
  const last = () => states[states.length-1];

  const { box, side } = frame(el), row = make('div', box), views = {};
  row.style.cssText = 'display: flex; gap: .5rem; flex: 1 1 44rem; min-width: 0';
  for (const [name, title] of Object.entries(TITLES)) {
    const part = make('figure', row), canvas = picture(part, SIZE, SIZE, name==='yours' ?
      'Your picture: drag to draw or to rub a hole, or move with the arrow keys; the space bar lowers and lifts the pen' : title);
    Object.assign(part.style, { margin: 0, flex: `0 1 ${SIZE}px`, minWidth: 0 });
    Object.assign(canvas.canvas.style, { background: 'black', imageRendering: 'pixelated' });
    if (name!=='yours') still(canvas.canvas);
    views[name] = { part, ...canvas, title: make('figcaption', part, {}, title) };
  }
  const yours = pad(views.yours.canvas, views.yours.pen);
  box.append(side);

  const choose = (name, options) => {
    const select = make('select'), whole = make('label', side, {}, name, ' ', select);
    whole.style.display = 'block';
    for (const [value, text] of options) make('option', select, { value }, text);
    select.onchange = () => settle();
    return { select, whole };
  };
  const kind = choose('make', Object.entries(KINDS)).select;
  const which = choose('model', models.map(({ file, name }) => [file, name])).select;
  const by = choose('computed by', [['wasm', 'the processor'], ['webgpu', 'the graphics card']]);
  by.whole.hidden = !navigator.gpu;
  const load = make('button', side, { onclick: () => {
    if (by.select.value!==runs) { worker?.terminate(); worker = begin(); }   // another runtime
    [loading, runs, table, states] = [true, by.select.value, null, []];
    settle();
    worker.postMessage({ load: which.value, by: by.select.value });
  } });
  const way = choose('by', []).select, label = choose('label', []);
  const push = slider(side, 'guidance w', { min: 0, max: 4, step: .5, value: 3 }, () => settle());
  // one of the times that the steps visit
  const time = slider(side, 't', { min: 0, max: 24 }, k => { t = visited()[k]; settle(); });
  const seed = make('input', null, { type: 'number', required: true, min: 0, max: 2**32-1, value: 0, oninput: () => settle() });
  make('label', side, {}, 'seed ', seed).style.display = 'block';
  const button = (text, onclick) => make('button', null, { onclick }, text);
  const go = button('draw', () => drawing ? stop() : draw());
  const next = button('next seed', () => { if (drawing) stop(); seed.value = +seed.value+1; draw(); });
  const take = button('take it as your picture', () => { yours.take(last().x_0); settle(); });
  const wipe = button('wipe', () => { yours.wipe(); settle(); });
  make('p', side, {}, go, ' ', next, ' ', take, ' ', wipe);
  const back = slider(side, 'look back: step', { min: 0, max: 0, value: 0 }, k => look(states[k]));
  const says = make('div', side, { ariaLive: 'polite' }), code = make('code', make('div', side));

  const loaded = () => table?.file===which.value && table.by===by.select.value;
  const visited = () => [...new Set(table.ways[way.value].steps.map(step => step[0]))].reverse();   // times, rising
  const chosenTime = () => visited().reduce((a, b) => Math.abs(b-t)<Math.abs(a-t) ? b : a);   // the nearest
  const python = () => {
    const [sampler, steps] = way.value.split(', '), told = +label.select.value>=0;
    return `DDPM.from_pretrained("${table.file}").using(sampler="${sampler}", steps=${parseInt(steps)})` +
      (told ? `.labelled(${label.select.value}, ${push.input.value})` : '') + `.sample(1, seed=${+seed.value})`;
  };
  const settle = () => {   // what is shown, and what can be pressed
    const { bytes } = models.find(({ file }) => file===which.value);
    const { bytes: its, packed: compressed } = runtime[by.select.value], there = runs===by.select.value;
    const busy = drawing || loading;
    load.hidden = loaded();
    load.disabled = loading;
    load.textContent = loading ? 'loading ...' : `load it: ${megabytes(bytes)}` + (there ? '' :
      `, and once ${megabytes(its)} for what runs it (${megabytes(compressed)} where the server compresses)`);
    const makes = kind.value, shown = (e, yes) => { e.style.display = yes ? 'block' : 'none'; };
    for (const e of [kind, which, by.select]) e.disabled = busy;
    for (const e of [take, wipe, way, label.select, push.input, time.input, seed]) e.disabled = busy || !loaded();
    go.disabled = next.disabled = !loaded();
    take.hidden = !states.length || makes==='noise' || !loaded();
    wipe.hidden = views.yours.part.hidden = makes==='noise';
    wipe.textContent = makes==='hole' ? 'close the hole' : 'wipe';
    views.yours.title.textContent = makes==='hole' ? 'your picture: rub a hole into it' : 'your picture: draw in it';
    shown(time.input.parentNode, makes==='lost');
    shown(label.whole, table?.classes.length);
    shown(push.input.parentNode, table?.classes.length && +label.select.value>=0);
    shown(back.input.parentNode, states.length>1 && !drawing);
    push.shown.textContent = push.input.value;
    if (loaded()) {
      time.input.max = visited().length-1;
      time.input.value = visited().indexOf(chosenTime());
      time.shown.textContent = chosenTime();
    }
    code.textContent = loaded() && makes==='noise' && seed.validity.valid ? python() : '';
    yours.digs(makes==='hole');
    // what is there now is of what was asked before
    for (const view of [views.x_t, views.x_0]) view.canvas.style.opacity = drawing ? 1 : .45;
  };

  const draw = () => {
    const makes = kind.value, told = { label: +label.select.value, guidance: +push.input.value };
    const order = { way: way.value, seed: +seed.value, ...told };
    if (makes!=='noise') order.picture = yours.read();
    if (makes==='lost') order.t = chosenTime();
    if (makes==='hole') order.hole = yours.hole();
    const wrong = !seed.validity.valid ? 'the seed is a whole number from 0 to 4,294,967,295' :
      makes==='lost' && order.picture.every(x => x<-.99) ? 'your picture is empty: draw in it first' :
      makes==='hole' && !order.hole.some(Boolean) ? 'there is no hole: rub one into your picture first' : '';
    if (wrong) { says.textContent = wrong; return; }
    calls = table.ways[order.way].steps.filter(step => !order.t || step[0]<=order.t).length;
    [states, drawing, began] = [[], true, performance.now()];
    go.textContent = 'stop';
    settle();
    worker.postMessage({ draw: order, turn: ++turn });
  };
  const rest = () => {
    drawing = false;
    go.textContent = 'draw';
    Object.assign(back.input, { max: states.length-1, value: states.length-1 });
    settle();
    if (states.length) look(last());
  };
  const stop = () => {
    worker.postMessage({ stop: true });
    turn++;
    rest();
    says.textContent = states.length ? `stopped at t = ${last().t}` : 'stopped';
  };
  const look = ({ t, x_t, x_0 }) => {
    for (const [view, x] of [[views.x_t, x_t], [views.x_0, x_0]]) {
      paint(view.pen, SIZE, x, table.shape);
      view.canvas.style.opacity = 1;
    }
    views.x_t.title.textContent = `x_t, t = ${t}`;
    views.x_0.title.textContent = t ? 'what it expects' : 'the image';
    back.shown.textContent = `${back.input.value} of ${back.input.max}, t = ${t}`;
  };
  const hear = ({ data }) => {
    if (data.table) { welcome(data); return; }
    if (data.turn!==undefined && (!drawing || data.turn!==turn)) return;   // of an order that was stopped
    if (data.error) { says.textContent = `it did not work: ${data.error}`; loading = false; rest(); return; }
    states.push(data);
    if (!motionless || !data.t) look(data);
    says.textContent = data.t ? `t = ${data.t}: step ${states.length-1} of ${calls}` :
      `${calls} steps in ${((performance.now()-began)/1000).toFixed(1)} s`;
    if (!data.t) rest();
  };
  const welcome = data => {
    table = { ...data.table, file: data.file, by: data.by };
    [loading, t] = [false, table.T/2];
    const option = (name, value = name) => make('option', null, { value }, name);
    way.replaceChildren(...Object.keys(table.ways).map(name => option(name)));
    label.select.replaceChildren(...['any', ...table.classes].map((name, k) => option(name, k-1)));
    yours.begin(table.shape);
    for (const view of [views.x_t, views.x_0]) view.pen.clearRect(0, 0, SIZE, SIZE);
    says.textContent = 'loaded';
    settle();
  };
  const begin = () => Object.assign(new Worker(new URL('./worker.js', import.meta.url), { type: 'module' }), {
    onmessage: hear,
    onerror: () => {
      says.textContent = 'what runs the models could not be loaded';
      [runs, table, states, loading] = [null, null, [], false];
      rest();
    },
  });
  el.figure = {
    image: () => states.length ? [...last().x_0] : [],
    picture: () => [...yours.read()],
    hole: () => [...yours.hole()],
    drawing: () => drawing,
    time: chosenTime,
    seen: () => states.map(({ t }) => t),
    python,
  };
  settle();
} };
