// Where did it come from? Prior times likelihood, on a line: chapter 00.
import { BLUE, GREY, INK, RED, frame, hand, make, picture, slider, swatch } from './common.js';

const bell = (x, m, v) => Math.exp(-((x-m)**2)/(2*v))/Math.sqrt(2*Math.PI*v);

export const prior = (world, x) =>
  world.means.reduce((s, m, k) => s + world.weights[k]*bell(x, m, world.variance), 0);

export const look = (world, x_t, beta) => {   // all that is known of x_{t-1}, if x_t is known
  const { means, weights, variance: v } = world, root = Math.sqrt(1-beta);
  // the step makes bump k a Gaussian of mean root m_k and variance V; Bayes' rule for each bump
  const V = (1-beta)*v + beta;
  const parts = means.map((m, k) => ({
    weight: weights[k]*bell(x_t, root*m, V),
    m: m + root*v/V*(x_t-root*m), v: v*beta/V,
  }));
  const density = parts.reduce((s, p) => s + p.weight, 0);   // of x_t
  for (const p of parts) p.weight /= density;
  const mean = parts.reduce((s, p) => s + p.weight*p.m, 0);
  const spread = parts.reduce((s, p) => s + p.weight*(p.v + (p.m-mean)**2), 0);
  // the slope of ln p_t, and what the theorem makes of it
  const slope = means.reduce((s, m, k) => s + parts[k].weight*(root*m-x_t)/V, 0);
  const theorem = (x_t + beta*slope)/root;
  const posterior = x => parts.reduce((s, p) => s + p.weight*bell(x, p.m, p.v), 0);
  return { density, mean, spread, slope, theorem, posterior };
};

const R = 2.6, WIDTH = 480, HEIGHT = 270, FINE = 960;

export default { render({ model, el }) {
  const world = model.get('world');
  let x_t = -.3, beta = .1;
  const { box, side } = frame(el);
  const { canvas, pen } = picture(box, WIDTH, HEIGHT, 'The line: drag x_t, or move it with the arrow keys');
  box.append(side);
  const place = slider(side, 'x_t', { min: -R, max: R, step: .01, value: x_t }, value => { x_t = value; draw(); });
  const size = slider(side, 'β', { min: -3, max: -.05, step: .01, value: Math.log10(beta) },
    value => { beta = 10**value; draw(); });
  const says = make('div', side, { ariaLive: 'polite' });
  says.style.cssText = 'margin: .4rem 0';

  const across = x => (x+R)/(2*R)*WIDTH;
  const curve = (f, top, colour, width, dash = [], fill = false) => {
    Object.assign(pen, { strokeStyle: colour, fillStyle: colour, lineWidth: width });
    pen.setLineDash(dash);
    pen.beginPath();
    if (fill) pen.moveTo(0, HEIGHT);
    for (let i = 0; i<=FINE; i++)
      pen.lineTo(i/FINE*WIDTH, HEIGHT-4 - f((2*i/FINE-1)*R)/top*(HEIGHT-24));
    if (fill) { pen.lineTo(WIDTH, HEIGHT); pen.fill(); } else pen.stroke();
    pen.setLineDash([]);
  };
  const highest = f => {
    let top = 0;
    for (let i = 0; i<=FINE; i++) top = Math.max(top, f((2*i/FINE-1)*R));
    return top;
  };
  const draw = () => {
    const { mean, spread, theorem, slope, posterior } = look(world, x_t, beta);
    const likelihood = x => bell(x_t, Math.sqrt(1-beta)*x, beta);
    const gauss = x => bell(x, mean, spread), top = Math.max(highest(posterior), highest(gauss));
    pen.clearRect(0, 0, WIDTH, HEIGHT);
    curve(x => prior(world, x), highest(x => prior(world, x))*1.25, '#e2e2e2', 1, [], true);
    curve(likelihood, highest(likelihood)*1.1, RED, 1.5);
    curve(posterior, top, BLUE, 3.5);
    curve(gauss, top, INK, 1.5, [5, 4]);
    Object.assign(pen, { strokeStyle: GREY, lineWidth: 1 });
    pen.beginPath(); pen.moveTo(across(x_t), 0); pen.lineTo(across(x_t), HEIGHT); pen.stroke();
    place.input.value = x_t;
    place.shown.textContent = x_t.toFixed(2);
    size.shown.textContent = beta.toPrecision(2);
    says.innerHTML = [
      '<span style="color: #aaa">&#9632;</span> where it was before: p(x)',
      `${swatch(RED)} how well x explains x<sub>t</sub> (scaled)`,
      `${swatch(BLUE)} where it came from: their product`,
      '&#9480; the Gaussian with its mean and variance',
      `mean ${mean.toFixed(4)}, standard deviation ${Math.sqrt(spread).toFixed(4)}`,
      `by the theorem (x<sub>t</sub> + β·slope)/√(1−β) = ${theorem.toFixed(4)}, slope ${slope.toFixed(2)}`].join('<br>');
  };
  const move = x => { x_t = Math.max(-R, Math.min(R, x)); draw(); };
  hand(canvas, right => move((2*right-1)*R), (right, up) => move(x_t + .05*(right || up)));
  el.figure = { numbers: () => { const { posterior, ...n } = look(world, x_t, beta); return n; }, point: () => x_t, beta: () => beta };
  draw();
} };
