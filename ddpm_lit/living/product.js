// Two Gaussians multiplied: what x_0 and what x_t say of x_{t-1}. Chapter 05, eqs. 6 and 7.
import { BLUE, INK, RED, frame, hand, make, picture, slider, swatch } from './common.js';

export const look = (world, x_0, x_t, t) => {
  const ab = world.alpha_bar[t], before = world.alpha_bar[t-1], alpha = ab/before, beta = 1-alpha;
  const clean = { m: Math.sqrt(before)*x_0, v: 1-before };           // eq. 4, of x_{t-1}
  const noisy = { m: x_t/Math.sqrt(alpha), v: beta/alpha };          // eq. 2, as a function of x_{t-1}
  const m = Math.sqrt(before)*beta/(1-ab)*x_0 + Math.sqrt(alpha)*(1-before)/(1-ab)*x_t;   // eq. 7
  return { clean, noisy, product: { m, v: (1-before)/(1-ab)*beta } };
};

const R = 2.2, WIDTH = 480, HEIGHT = 250, FINE = 960;

export default { render({ model, el }) {
  const world = model.get('world'), T = world.alpha_bar.length-1;
  let x_0 = -.6, x_t = .8, t = Math.ceil(T/2), held = 'x_t';
  const { box, side } = frame(el);
  const { canvas, pen } = picture(box, WIDTH, HEIGHT, 'The line: drag x_0 or x_t, or move x_t with the arrow keys');
  box.append(side);
  const set = { min: -R, max: R, step: .01 };
  const clean = slider(side, 'x_0', { ...set, value: x_0 }, value => { x_0 = value; draw(); });
  const noisy = slider(side, 'x_t', { ...set, value: x_t }, value => { x_t = value; draw(); });
  const time = slider(side, 'time t', { min: 2, max: T, step: 1, value: t }, value => { t = value; draw(); });
  const says = make('div', side, { ariaLive: 'polite' });
  says.style.cssText = 'margin: .4rem 0';

  const across = x => (x+R)/(2*R)*WIDTH;
  const curve = ({ m, v }, top, colour, width) => {
    Object.assign(pen, { strokeStyle: colour, lineWidth: width });
    pen.beginPath();
    for (let i = 0; i<=FINE; i++) {
      const x = (2*i/FINE-1)*R, y = Math.exp(-((x-m)**2)/(2*v))/Math.sqrt(2*Math.PI*v);
      pen.lineTo(i/FINE*WIDTH, HEIGHT-4 - y/top*(HEIGHT-24));
    }
    pen.stroke();
  };
  const upright = (x, colour) => {
    Object.assign(pen, { strokeStyle: colour, lineWidth: 1.5 });
    pen.beginPath(); pen.moveTo(across(x), HEIGHT-16); pen.lineTo(across(x), HEIGHT); pen.stroke();
  };
  const draw = () => {
    const n = look(world, x_0, x_t, t), top = 1.02/Math.sqrt(2*Math.PI*n.product.v);
    pen.clearRect(0, 0, WIDTH, HEIGHT);
    curve(n.clean, top, BLUE, 2);
    curve(n.noisy, top, RED, 2);
    curve(n.product, top, INK, 3.5);
    upright(x_0, BLUE);
    upright(x_t, RED);
    [[clean, x_0], [noisy, x_t]].forEach(([s, x]) => { s.input.value = x; s.shown.textContent = x.toFixed(2); });
    time.shown.textContent = t;
    const of = ({ m, v }) => `N(${m.toFixed(3)}, ${Math.sqrt(v).toFixed(3)}<sup>2</sup>)`;
    says.innerHTML = [
      `${swatch(BLUE)} what x<sub>0</sub> says of x<sub>t−1</sub>: ${of(n.clean)}`,
      `${swatch(RED)} what x<sub>t</sub> says: ${of(n.noisy)}`,
      `${swatch(INK)} together, eqs. 6 and 7: ${of(n.product)}`].join('<br>');
  };
  const move = x => {
    x = Math.max(-R, Math.min(R, x));
    if (held==='x_0') x_0 = x; else x_t = x;
    draw();
  };
  hand(canvas, right => move((2*right-1)*R), (right, up) => { held = 'x_t'; move(x_t + .05*(right || up)); });
  const down = canvas.onpointerdown;
  canvas.onpointerdown = e => {   // takes the nearer one
    const r = canvas.getBoundingClientRect(), x = (2*(e.clientX-r.left)/r.width-1)*R;
    held = Math.abs(x-x_0)<Math.abs(x-x_t) ? 'x_0' : 'x_t';
    down(e);
  };
  el.figure = { numbers: () => look(world, x_0, x_t, t), point: () => [x_0, x_t], time: () => t };
  draw();
} };
