// What a fixed variance costs, step by step, for data N(0, v). Chapter 06, eq. 5.
import { BLUE, GREY, INK, RED, frame, hand, make, picture, slider, swatch } from './common.js';

export const look = (T, v) => {   // nats too many, of the steps from t = 1, 2, ..., T; and of the end
  const beta = t => (.1 + 19.9*(t-1)/(T-1))/T;   // Schedule.linear(T, .1/T, 20/T)
  const costs = { beta: [], beta_tilde: [] };
  let before = 1;
  for (let t = 1; t<=T; t++) {
    const b = beta(t), ab = before*(1-b), V = ab*v + 1-ab;
    const small = t===1 ? b : b*(1-before)/(1-ab);           // beta_tilde, but for the last step
    const best = b*(before*v + 1-before)/V;                  // of the exact step back
    for (const [name, sigma2] of [['beta', b], ['beta_tilde', small]])
      costs[name].push((best/sigma2 - 1 - Math.log(best/sigma2))/2);   // KL of two widths
    before = ab;
  }
  const V = before*v + 1-before;                             // of x_T, which should be 1
  const end = (V - 1 - Math.log(V))/2;
  return { ...costs, end, exact: Math.log(2*Math.PI*Math.E*v)/2 };
};

const WIDTH = 480, HEIGHT = 240, BASE = HEIGHT-18;
const sum = list => list.reduce((a, b) => a+b, 0);

export default { render({ model, el }) {
  let T = 100, v = 1/25, t = 2;
  const { box, side } = frame(el);
  const { canvas, pen } = picture(box, WIDTH, HEIGHT, 'The steps: drag to one, or move along with the arrow keys');
  box.append(side);
  const length = slider(side, 'T', { min: 25, max: 400, step: 25, value: T }, to => { T = to; draw(); });
  const width = slider(side, 'standard deviation of the data', { min: -2, max: .3, step: .01, value: Math.log10(v)/2 },
    to => { v = 100**to; draw(); });
  const says = make('div', side, { ariaLive: 'polite' });
  says.style.cssText = 'margin: .4rem 0';

  const across = at => 20 + Math.log(at)/Math.log(T+1)*(WIDTH-24);   // the early steps have more room
  const draw = () => {
    const n = look(T, v), top = Math.max(...n.beta, ...n.beta_tilde, 1e-12);
    t = Math.min(t, T);
    const bar = at => .42*(across(at+1)-across(at));
    pen.clearRect(0, 0, WIDTH, HEIGHT);
    [[n.beta, BLUE, 0], [n.beta_tilde, RED, 1]].forEach(([costs, colour, second]) => {
      pen.fillStyle = colour;
      costs.forEach((c, i) => {
        const high = c/top*(BASE-20), wide = bar(i+1);
        pen.fillRect(across(i+1)+second*wide, BASE-high, wide, high);
      });
    });
    Object.assign(pen, { strokeStyle: INK, lineWidth: 1, fillStyle: GREY, font: '11px sans-serif' });
    pen.beginPath(); pen.moveTo(20, BASE+.5); pen.lineTo(WIDTH, BASE+.5); pen.stroke();
    pen.fillText(`${top.toPrecision(2)} nats`, 24, 12);
    pen.fillText('t = 1', 20, HEIGHT-4);
    pen.textAlign = 'right'; pen.fillText(`t = ${T}`, WIDTH-2, HEIGHT-4); pen.textAlign = 'left';
    pen.beginPath(); pen.moveTo(across(t)+bar(t), 16); pen.lineTo(across(t)+bar(t), BASE); pen.stroke();
    length.shown.textContent = T;
    width.shown.textContent = Math.sqrt(v).toPrecision(2);
    const line = (colour, name, costs) => `${swatch(colour)} with ${name}: ${(sum(costs)+n.end).toPrecision(3)} nats ` +
      `too many, ${costs[t-1].toPrecision(2)} of them in the step from t = ${t}`;
    says.innerHTML = [`exact: ${n.exact.toFixed(3)} nats`, line(BLUE, 'β', n.beta),
      line(RED, 'β&#771;', n.beta_tilde)].join('<br>');
  };
  const move = to => { t = Math.max(1, Math.min(T, to)); draw(); };
  hand(canvas, right => move(Math.floor((T+1)**((right*WIDTH-20)/(WIDTH-24)))), (right, up) => move(t + (right || up)));
  el.figure = { numbers: () => look(T, v), choice: () => [T, v], time: () => t };
  draw();
} };
