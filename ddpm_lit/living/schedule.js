// Choose the betas, and see what they leave of a photograph. Chapter 03.
import { BLUE, GREY, RED, frame, hand, make, picture, slider, swatch } from './common.js';
import { normals } from './noise.js';

export const look = ({ kind, T, first, last, bend }) => {
  const beta = [0], alpha_bar = [1];
  const left = t => Math.cos((t/T+.008)/1.008*Math.PI/2)**2;   // Nichol and Dhariwal, eq. 17
  for (let t = 1; t<=T; t++) {
    const line = first**(1/bend) + (last**(1/bend)-first**(1/bend))*(t-1)/(T-1);
    beta.push(kind==='cosine' ? Math.min(.999, 1-left(t)/left(t-1)) : line**bend);
    alpha_bar.push(alpha_bar[t-1]*(1-beta[t]));
  }
  return { beta, alpha_bar };
};

const LINES = { linear: [1e-4, .02, 1], quadratic: [1e-4, .025, 2], constant: [.01, .01, 1] };
const SIDE = 64, WIDTH = 480, PLOT = 250, HIGH = 210, FRAMES = 8, SMALL = WIDTH/FRAMES;

export default { render({ model, el }) {
  const choice = { kind: 'linear', T: 1000, first: 1e-4, last: .02, bend: 1 };
  const eps = normals(1)(3*SIDE*SIDE), small = document.createElement('canvas');
  let share = .2, x_0 = null;   // t/T, and the photograph in [-1, 1]
  small.width = small.height = SIDE;
  const paper = small.getContext('2d', { willReadFrequently: true });
  const { box, side } = frame(el);
  const { canvas, pen } = picture(box, WIDTH, HIGH+SMALL+18,
    'Left over t: drag the time, or move it with the arrow keys');
  box.append(side);
  const kinds = make('select', make('label', side, {}, 'schedule '));
  for (const kind of [...Object.keys(LINES), 'cosine']) make('option', kinds, { value: kind }, kind);
  const bar = (name, key, set, of = v => v, back = v => v) => {
    const s = slider(side, name, set, v => { choice[key] = of(v); draw(); });
    return { ...s, show: text => { s.input.value = back(choice[key]); s.shown.textContent = text(choice[key]); } };
  };
  const power = [v => 10**v, Math.log10], digits = v => v.toPrecision(2);
  const bars = {
    T: bar('T', 'T', { min: 10, max: 1000, step: 10 }),
    first: bar('β_1', 'first', { min: -6, max: -1, step: .02 }, ...power),
    last: bar('β_T', 'last', { min: -3, max: -.01, step: .02 }, ...power),
    bend: bar('bend of the curve of betas (1: a line)', 'bend', { min: .5, max: 6, step: .1 }),
  };
  const says = make('div', side, { ariaLive: 'polite' });
  says.style.cssText = 'margin: .4rem 0';
  kinds.onchange = () => {
    choice.kind = kinds.value;
    if (LINES[choice.kind]) [choice.first, choice.last, choice.bend] = LINES[choice.kind];
    draw();
  };

  const time = () => Math.round(share*choice.T);
  const noisy = ab => {   // eq. 4
    const image = paper.createImageData(SIDE, SIDE), a = Math.sqrt(ab), b = Math.sqrt(1-ab);
    for (let i = 0, k = 0; i<image.data.length; i++)
      image.data[i] = i%4===3 ? 255 : 127.5*(1 + a*x_0[k] + b*eps[k++]);
    paper.putImageData(image, 0, 0);
    return small;
  };
  const draw = () => {
    const { beta, alpha_bar } = look(choice), t = time(), { T, kind } = choice, usual = look({ kind: 'linear', T: 1000, first: 1e-4, last: .02, bend: 1 });
    pen.clearRect(0, 0, WIDTH, HIGH+SMALL+18);
    const curve = (y, colour, T, lineWidth = 2.5) => {
      Object.assign(pen, { strokeStyle: colour, lineWidth });
      pen.beginPath();
      for (let i = 1; i<=T; i++) pen.lineTo(i/T*PLOT, 6+(HIGH-12)*(1-y(i)));
      pen.stroke();
    };
    curve(i => usual.alpha_bar[i], '#bbbbbb', 1000, 1.5);
    curve(i => Math.max(0, 1+Math.log10(beta[i])/6), RED, T);   // from a millionth to 1
    curve(i => alpha_bar[i], BLUE, T);
    Object.assign(pen, { strokeStyle: GREY, lineWidth: 1 });
    pen.beginPath(); pen.moveTo(t/T*PLOT, 0); pen.lineTo(t/T*PLOT, HIGH); pen.stroke();
    pen.imageSmoothingEnabled = false;
    if (x_0) {
      pen.drawImage(noisy(alpha_bar[t]), WIDTH-HIGH, 0, HIGH, HIGH);
      for (let k = 0; k<FRAMES; k++)
        pen.drawImage(noisy(alpha_bar[Math.round((k+1)/FRAMES*T)]), k*SMALL+1, HIGH+18, SMALL-2, SMALL-2);
    }
    Object.assign(pen, { fillStyle: GREY, font: '11px sans-serif', textAlign: 'left' });
    pen.fillText('t/T = 1/8, 2/8, ..., 1:', 0, HIGH+13);
    pen.fillText('1', 2, 14); pen.fillText('0', 2, HIGH-8); pen.fillText('⇠ drag t ⇢', PLOT-64, 14);
    bars.T.show(v => v);
    const line = kind!=='cosine';   // which has no ends and no bend of its own
    bars.first.show(v => digits(line ? v : beta[1]));
    bars.last.show(v => digits(line ? v : beta[T]));
    bars.bend.show(v => line ? v.toFixed(1) : '–');
    for (const k of ['first', 'last', 'bend']) bars[k].input.disabled = !line;
    const end = Math.sqrt(alpha_bar[T]);
    says.innerHTML = [
      `t = ${t}: ${swatch(BLUE)} α&#772;<sub>t</sub> = ${alpha_bar[t].toPrecision(3)}, ` +
        `${swatch(RED)} β<sub>t</sub> = ${beta[t].toPrecision(3)} (10<sup>−6</sup> to 1, logarithmic)`,
      `signal to noise ${t ? (alpha_bar[t]/(1-alpha_bar[t])).toPrecision(3) : '∞'}`,
      `${swatch('#bbbbbb')} α&#772;<sub>t</sub> of the paper's schedule`,
      `√α&#772;<sub>T</sub> = ${end.toPrecision(2)}: x<sub>T</sub> ` + (end>.02 ?
        `<b>still holds the image, ${end.toPrecision(2)} times as strong</b>, but sampling starts from none of it` :
        'holds next to nothing of the image')].join('<br>');
  };
  const move = to => { share = Math.max(0, Math.min(1, to)); draw(); };
  hand(canvas, right => move(right*WIDTH/PLOT), (right, up) => move(share + .01*(right || up)));
  el.figure = { choice: () => choice, time, numbers: () => look(choice) };
  const photo = new Image();
  photo.onload = () => {
    paper.drawImage(photo, 0, 0, SIDE, SIDE);
    x_0 = Float32Array.from(paper.getImageData(0, 0, SIDE, SIDE).data.filter((_, i) => i%4<3), v => v/127.5-1);
    draw();
  };
  photo.src = model.get('world').photo;
  draw();
} };
