// Gaussians in the plane, under the hand: chapter 04. Every number is one of its formulas.
import { BLUE, GREY, INK, RED, frame, hand, make, picture, slider } from './common.js';

export const law = (world, t) => {   // of x_t: chapter 04, a mixture
  const ab = world.alpha_bar[t], root = Math.sqrt(ab);
  const parts = world.means.map((mean, k) => ({
    mean, weight: world.weights[k], variance: world.variance[k],
    m: mean.map(c => root*c), v: ab*world.variance[k] + 1-ab,
  }));
  return { ab, root, parts };
};

export const look = ({ ab, root, parts }, x) => {   // what is known of one point
  const logs = parts.map(({ weight, m, v }) =>
    Math.log(weight) - Math.log(2*Math.PI*v) - ((x[0]-m[0])**2 + (x[1]-m[1])**2)/(2*v));
  const most = Math.max(...logs), sum = logs.reduce((s, l) => s + Math.exp(l-most), 0);
  const shares = logs.map(l => Math.exp(l-most)/sum);
  const mix = of => [0, 1].map(i => parts.reduce((s, part, k) => s + shares[k]*of(part, i), 0));
  const score = mix(({ m, v }, i) => (m[i]-x[i])/v);
  const guess = mix(({ mean, variance, m, v }, i) => mean[i] + root*variance/v*(x[i]-m[i]));
  const eps = score.map(s => -Math.sqrt(1-ab)*s);
  return { density: sum*Math.exp(most), shares, score, guess, eps };
};

export const steps = {   // from t to t-1, with a draw z; or, for Langevin, at t
  'Algorithm 2': (world, t, x, z) => {
    const here = law(world, t), beta = 1 - here.ab/world.alpha_bar[t-1];
    const { eps } = look(here, x), noise = t>1 ? Math.sqrt(beta) : 0;
    return x.map((c, i) =>
      (c - beta/Math.sqrt(1-here.ab)*eps[i])/Math.sqrt(1-beta) + noise*z[i]);
  },
  'DDIM': (world, t, x) => {
    const here = law(world, t), { eps, guess } = look(here, x), ab = world.alpha_bar[t-1];
    return x.map((c, i) => Math.sqrt(ab)*guess[i] + Math.sqrt(1-ab)*eps[i]);
  },
  'Langevin, at this t': (world, t, x, z) => {
    const here = law(world, t), { score } = look(here, x);
    const h = .1*(here.ab*Math.min(...world.variance) + 1-here.ab);
    return x.map((c, i) => c + h*score[i] + Math.sqrt(2*h)*z[i]);
  },
};

const normal = () => Math.sqrt(-2*Math.log(1-Math.random()))*Math.cos(2*Math.PI*Math.random());
const HUES = ['#004488', '#bb5566', '#ddaa33', '#6699cc', '#997700', '#117733', '#882255', '#888888'];
const R = 2.2, SIDE = 330, FINE = 66;   // the square is [-R, R]^2

export default { render({ model, el }) {
  const world = model.get('world'), T = world.alpha_bar.length-1;
  let t = Math.round(.15*T), x = [.7, .45], cloud = [], going = 0, way = 'Algorithm 2';

  const { box, side } = frame(el);
  const { canvas, pen } = picture(box, SIDE, SIDE, 'The plane: drag the point x_t, or move it with the arrow keys');
  box.append(side);
  const time = slider(side, 'time t', { min: 1, max: T, step: 1, value: t }, value => {
    stop();
    cloud = [];
    t = value;
    draw();
  });
  const says = make('div', side, { ariaLive: 'polite' });
  says.style.cssText = 'margin: .4rem 0';
  const bars = make('div', side, { role: 'img' });
  bars.style.cssText = 'display: flex; align-items: flex-end; gap: 3px; height: 4rem';
  HUES.forEach(hue => make('span', bars).style.cssText = `flex: 1; background: ${hue}; min-height: 1px`);
  make('div', side, {}, 'shares: from which Gaussian it may have come').style.cssText = 'opacity: .75';
  const choice = make('select', null, { ariaLabel: 'how the points move' });
  for (const name of Object.keys(steps)) make('option', choice, { textContent: name });
  const go = make('button', null, { textContent: 'let 100 points go', type: 'button' });
  make('p', side, {}, choice, ' ', go);

  const across = c => (c+R)/(2*R)*SIDE, down = c => SIDE - across(c);
  const shade = document.createElement('canvas');
  shade.width = shade.height = FINE;
  const paint = here => {   // the density, and whose it is
    const data = pen.createImageData(FINE, FINE), cells = [];
    for (let j = 0; j<FINE; j++) for (let i = 0; i<FINE; i++)
      cells.push(look(here, [((i+.5)/FINE*2-1)*R, -((j+.5)/FINE*2-1)*R]));
    const top = Math.max(...cells.map(c => c.density));
    const rgb = HUES.map(h => [1, 3, 5].map(k => parseInt(h.slice(k, k+2), 16)));
    cells.forEach(({ density, shares }, k) => {
      const ink = .75*Math.sqrt(density/top);
      for (let c = 0; c<3; c++) data.data[4*k+c] =
        255 - ink*(255 - shares.reduce((s, r, j) => s + r*rgb[j%8][c], 0));
      data.data[4*k+3] = 255;
    });
    shade.getContext('2d').putImageData(data, 0, 0);
  };
  const line = (a, b, colour, width) => {
    Object.assign(pen, { strokeStyle: colour, lineWidth: width });
    pen.beginPath(); pen.moveTo(across(a[0]), down(a[1])); pen.lineTo(across(b[0]), down(b[1])); pen.stroke();
  };
  const dot = (a, size, colour) => {
    pen.fillStyle = colour;
    pen.beginPath(); pen.arc(across(a[0]), down(a[1]), size, 0, 7); pen.fill();
  };
  let painted = 0;
  const numbers = () => look(law(world, t), x);
  const draw = () => {
    const here = law(world, t), { density, shares, score, guess } = look(here, x);
    if (painted!==t) paint(here);
    painted = t;
    pen.imageSmoothingEnabled = true;
    pen.drawImage(shade, 0, 0, SIDE, SIDE);
    here.parts.forEach(({ m }) => dot(m, 3, INK));
    cloud.forEach(p => dot(p, 2, INK));
    const length = Math.hypot(...score), reach = .6*length/(length+1);
    const tip = x.map((c, i) => c + (length ? reach*score[i]/length : 0));
    line(x, guess, GREY, 1);
    line(x, tip, RED, 3);
    dot(guess, 5, BLUE);
    dot(x, 7, INK);
    dot(x, 5, 'white');
    time.shown.textContent = t;
    const two = v => v.map(c => c.toFixed(2)).join(', ');
    says.innerHTML = [`<b>x<sub>t</sub></b> = (${two(x)}), density ${density.toPrecision(3)}`,
      `<span style="color: ${RED}">&#9644;</span> score = (${two(score)})`,
      `<span style="color: ${BLUE}">&#9679;</span> E[x<sub>0</sub> | x<sub>t</sub>] = (${two(guess)})`].join('<br>');
    [...bars.children].forEach((bar, k) => bar.style.height = `${100*shares[k]}%`);
    bars.setAttribute('aria-label', 'shares: ' + shares.map(s => `${Math.round(100*s)} %`).join(', '));
  };

  const clip = c => Math.max(-R, Math.min(R, c));
  const move = (a, b) => {
    x = [clip(a), clip(b)];
    draw();
  };
  hand(canvas, (right, below) => move((2*right-1)*R, (1-2*below)*R),
    (right, up) => move(x[0]+.05*right, x[1]+.05*up));
  const stop = () => { cancelAnimationFrame(going); going = 0; go.textContent = 'let 100 points go'; };
  choice.onchange = () => { stop(); way = choice.value; };

  const walks = () => way.startsWith('Langevin');
  let left = 0;
  const one = () => {   // one step of all points; false at the end
    cloud = cloud.map(p => steps[way](world, t, p, [normal(), normal()]));
    if (walks()) return --left>0;
    time.input.value = --t;
    return t>1 || (cloud = cloud.map(p => steps[way](world, 1, p, [0, 0])), false);
  };
  go.onclick = () => {
    if (going) { stop(); return; }
    left = 400;
    if (!walks()) time.input.value = t = T;
    cloud = Array.from({ length: 100 }, () => walks() ? [...x] : [normal(), normal()]);
    if (matchMedia('(prefers-reduced-motion: reduce)').matches) { while (one()); draw(); return; }
    go.textContent = 'stop';
    const each = walks() ? 1 : Math.ceil(T/400), tick = () => {
      let on = true;
      for (let k = 0; k<each && on; k++) on = one();
      draw();
      going = on ? requestAnimationFrame(tick) : (stop(), 0);
    };
    going = requestAnimationFrame(tick);
  };

  el.figure = { numbers, point: () => [...x], time: () => t, cloud: () => cloud };
  draw();
} };
