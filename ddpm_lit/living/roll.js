// Algorithm 1, and Algorithm 2, for points of the plane: a small network learns in the page. Chapter 10.
import { BLUE, GREY, INK, RED, frame, hand, make, picture, still, swatch } from './common.js';
import { normals, numbers } from './noise.js';

const WIDE = 48, SHAPES = [[20, WIDE], [WIDE, WIDE], [WIDE, 2]];
export const BATCH = 128, STEPS = 3000, RATE = .01;

export const layers = w => {   // a view of one flat row of weights: W by rows, b
  let at = 0;
  const take = n => w.subarray(at, at += n);
  return SHAPES.map(([from, to]) => ({ from, to, W: take(from*to), b: take(to) }));
};
export const size = SHAPES.reduce((n, [from, to]) => n + (from+1)*to, 0);

export const begin = seed => {
  const w = new Float64Array(size), next = numbers(seed);
  for (const { from, W } of layers(w))   // as PyTorch begins a linear layer, but for b
    W.forEach((_, k) => W[k] = (2*next()/2**32-1)/Math.sqrt(from));
  return w;
};

const inputs = (x, t, T) => {   // by rows: the point, and place and time as waves
  const angles = r => [.5, 1, 2, 4, 8].map(k => k*Math.PI*t[r]/T).concat([2, 4].flatMap(k => [k*x[2*r], k*x[2*r+1]]));
  return Float64Array.from(t.flatMap((_, r) =>
    [x[2*r], x[2*r+1], ...angles(r).map(Math.sin), ...angles(r).map(Math.cos)]));
};
const gate = z => 1/(1+Math.exp(-z));

export const forward = (w, x, t, T) => {   // what goes into each layer, and what the last one says
  let a = inputs(x, t, T);
  const seen = [];
  layers(w).forEach(({ from, to, W, b }, k) => {
    const z = new Float64Array(t.length*to);
    for (let r = 0; r<t.length; r++) for (let j = 0; j<to; j++) {
      let sum = b[j];
      for (let i = 0; i<from; i++) sum += W[j*from+i]*a[r*from+i];
      z[r*to+j] = sum;
    }
    seen.push({ a, z });
    a = k<SHAPES.length-1 ? z.map(v => v*gate(v)) : z;
  });
  return { seen, eps: a };
};

export const gradient = (w, x_t, t, eps, T) => {   // of eq. 14, and its value
  const { seen, eps: guess } = forward(w, x_t, t, T), g = new Float64Array(size), own = layers(g), all = layers(w);
  let loss = 0, d = guess.map((v, k) => {
    loss += (v-eps[k])**2/eps.length;
    return 2*(v-eps[k])/eps.length;
  });
  for (let k = SHAPES.length-1; k>=0; k--) {
    const { from, to, W } = all[k], { a } = seen[k], back = new Float64Array(t.length*from);
    for (let r = 0; r<t.length; r++) for (let j = 0; j<to; j++) {
      const here = d[r*to+j];
      own[k].b[j] += here;
      for (let i = 0; i<from; i++) {
        own[k].W[j*from+i] += here*a[r*from+i];
        back[r*from+i] += here*W[j*from+i];
      }
    }
    if (k) d = back.map((v, i) => { const z = seen[k-1].z[i], s = gate(z); return v*s*(1 + z*(1-s)); });
  }
  return { loss, gradient: g };
};

export const adam = w => {   // (gradient, rate) moves w
  const m = new Float64Array(size), v = new Float64Array(size);
  let k = 0;
  return (g, rate) => {
    k++;
    for (let i = 0; i<size; i++) {
      m[i] += .1*(g[i]-m[i]);
      v[i] += .001*(g[i]**2-v[i]);
      w[i] -= rate*m[i]/(1-.9**k)/(Math.sqrt(v[i]/(1-.999**k)) + 1e-8);
    }
  };
};

export const run = (data, alphaBar, seed) => {   // Algorithm 1: each call of `step` takes one, and tells the loss
  const w = begin(seed), move = adam(w), next = numbers(seed+1), noise = normals(seed+2), T = alphaBar.length-1;
  let k = 0;
  const step = () => {
    const t = Array.from({ length: BATCH }, () => 1 + next()%T), eps = noise(2*BATCH);
    const x_t = new Float64Array(2*BATCH);
    t.forEach((time, r) => {
      const x_0 = data[next()%data.length];
      for (let c = 0; c<2; c++)
        x_t[2*r+c] = Math.sqrt(alphaBar[time])*x_0[c] + Math.sqrt(1-alphaBar[time])*eps[2*r+c];
    });
    const { loss, gradient: g } = gradient(w, x_t, t, eps, T);
    move(g, RATE*Math.min(1, ++k/100, Math.max(0, 1.25*(1-k/STEPS))));   // up, and at the end down
    return loss;
  };
  return { w, step };
};

export const walk = (w, alphaBar, n, seed) => {   // Algorithm 2, with beta_tilde, for n points (a multiple of 8)
  const noise = normals(seed), T = alphaBar.length-1;
  let x = noise(2*n);
  for (let t = T; t>=1; t--) {
    const { eps } = forward(w, x, Array(n).fill(t), T), [ab, before] = [alphaBar[t], alphaBar[t-1]];
    const beta = 1-ab/before, z = t>1 ? noise(2*n) : x, spread = Math.sqrt(beta*(1-before)/(1-ab));   // 0 at t = 1
    x = x.map((v, k) => (v - beta/Math.sqrt(1-ab)*eps[k])/Math.sqrt(1-beta) + spread*z[k]);
  }
  return x;
};

const SIDE = 300, WIDTH = 300, HEIGHT = 150, R = 2.6, SHOWN = 240, EVERY = 500;

export default { render({ model, el }) {
  const { points, alpha_bar: alphaBar } = model.get('world');
  let data = points, here = [0, 0], losses = [], x_0 = [], job = null, going = 0, began = 0, took = 0, seed = 0;
  const { box, side } = frame(el);
  const { canvas, pen } = picture(box, SIDE, SIDE,
    'The plane: drag to draw data of your own, or move with the arrow keys and leave points');
  box.append(side);
  const curve = picture(side, WIDTH, HEIGHT, 'The loss');
  still(curve.canvas);
  const go = make('button', null, {}, 'train'), roll = make('button', null, {}, 'the Swiss roll again');
  make('p', side, {}, go, ' ', roll);
  const says = make('div', side, { ariaLive: 'polite' });

  const across = v => (v+R)/(2*R)*SIDE;
  const draw = () => {
    pen.clearRect(0, 0, SIDE, SIDE);
    const dots = (all, colour, size) => {
      pen.fillStyle = colour;
      for (const [x, y] of all) pen.fillRect(across(x)-size/2, across(-y)-size/2, size, size);
    };
    dots(data, '#bbbbbb', 2);
    dots(Array.from({ length: x_0.length/2 }, (_, k) => [x_0[2*k], x_0[2*k+1]]), BLUE, 3);
    pen.strokeStyle = RED;
    if (document.activeElement===canvas) pen.strokeRect(across(here[0])-3, across(-here[1])-3, 6, 6);
    const p = curve.pen, high = l => HEIGHT-2 - Math.min(1.1, l)/1.1*(HEIGHT-4);
    p.clearRect(0, 0, WIDTH, HEIGHT);
    p.fillStyle = GREY;
    p.font = '11px sans-serif';
    p.fillText('loss 1: that of the answer 0', 4, high(1)-2 + 14);
    p.fillRect(0, high(1), WIDTH, 1);
    p.strokeStyle = INK;
    p.beginPath();
    for (let k = 0; k<losses.length; k += 10) {   // means of ten steps
      const ten = losses.slice(k, k+10);
      p.lineTo(k/STEPS*WIDTH, high(ten.reduce((a, b) => a+b)/ten.length));
    }
    p.stroke();
    const count = n => n.toLocaleString(), drawnAt = losses.length - losses.length%EVERY;
    const late = losses.slice(-100), last = late.reduce((a, b) => a+b, 0)/late.length;
    says.innerHTML = `${swatch('#bbbbbb')} ${count(data.length)} points of the data<br>` + (losses.length ?
      (x_0.length ? `${swatch(BLUE)} ${SHOWN} draws by Algorithm 2, after ${count(drawnAt)} steps<br>` : '') +
      `step ${count(losses.length)} of ${count(STEPS)}, ${(took/1000).toFixed(0)} s; ` +
      `loss of the last ${late.length}: ${last.toFixed(3)}` : `${count(size)} weights, which know nothing yet. ` +
      'The first stroke across the plane takes the roll away, more strokes add to it.');
  };
  const stop = () => { clearTimeout(going); going = 0; go.textContent = losses.length ? 'train anew' : 'train'; };
  const steps = n => {   // n of them; false at the end
    for (let k = 0; k<n && losses.length<STEPS; k++) {
      losses.push(job.step());
      if (losses.length%EVERY===0) x_0 = walk(job.w, alphaBar, SHOWN, 0);
    }
    return losses.length<STEPS;
  };
  const tick = () => {   // as many steps as a picture has time for
    const until = performance.now()+40;
    let on = true;
    while (on && performance.now()<until) on = steps(5);
    took = performance.now()-began;
    draw();
    if (on) going = setTimeout(tick); else stop();
  };
  go.onclick = () => {
    if (going) { stop(); return; }
    [losses, x_0, began] = [[], [], performance.now()];
    job = run(data, alphaBar, seed++);
    go.textContent = 'stop';
    tick();
  };
  roll.onclick = () => { [data, losses, x_0] = [points, [], []]; stop(); draw(); };
  const leave = (x, y) => {   // some points about a place
    if (data===points) data = [];
    [losses, x_0] = [[], []];
    stop();
    here = [x, y].map(v => Math.max(-R, Math.min(R, v)));
    const near = normals(data.length+1)(16);
    for (let k = 0; k<8; k++) data.push(here.map((v, c) => v + .05*near[2*k+c]));
    draw();
  };
  hand(canvas, (right, below) => leave((2*right-1)*R, (1-2*below)*R),
    (right, up) => leave(here[0]+.1*right, here[1]+.1*up));
  el.figure = { data: () => data, losses: () => losses, draws: () => [...x_0], going: () => !!going };
  draw();
} };
