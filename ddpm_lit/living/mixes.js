// Fig. 8 with its two sliders: images that were computed before, one for each lambda and t. Chapter 13.
import { RED, frame, hand, make, picture, slider } from './common.js';

const CELL = 32, LARGE = 4*CELL, GAP = 8;   // an image of the map, and the one that is chosen

export default { render({ model, el }) {
  // the sheet is an `image_grid`: rows are times, columns lambda
  const { sheet, lam, times, side: pixels } = model.get('world');
  const wide = CELL*lam.length, high = CELL*times.length;
  let column = Math.floor(lam.length/2), row = times.length-2, image = null;
  const sources = [0, lam.length-1].map(i => [i, times.length-1]);   // at t = 0 the ends are the sources
  const { box, side } = frame(el);
  const { canvas, pen } = picture(box, wide, high+GAP+LARGE,
    'The map of faces: drag to one, or move with the arrow keys');
  box.append(side);
  const mixed = slider(side, 'λ', { min: 0, max: lam.length-1, value: column }, k => move(k, row));
  const time = slider(side, 't', { min: 0, max: times.length-1 }, k => move(column, times.length-1-k));
  const says = make('p', side, { ariaLive: 'polite' });
  make('p', side, {}, 'The map has all of them: λ from left to right, t from below upwards; click on one. ' +
    'Under it, large: the first source, the chosen one, the second source.');

  const values = ([i, j]) => {
    const small = make('canvas', null, { width: pixels, height: pixels }), own = small.getContext('2d');
    own.drawImage(image, -i*(pixels+2)-2, -j*(pixels+2)-2);
    return own.getImageData(0, 0, pixels, pixels).data;
  };
  const apart = (one, other) => {   // root mean square
    const a = values(one), b = values(other), sum = a.reduce((s, v, k) => s + (v-b[k])**2, 0);
    return Math.sqrt(sum/(.75*a.length));   // the fourth number of a pixel is always 255
  };

  const draw = () => {
    pen.clearRect(0, 0, wide, high+GAP+LARGE);
    mixed.input.value = column;
    time.input.value = times.length-1-row;
    mixed.shown.textContent = lam[column];
    time.shown.textContent = times[row];
    if (!image) return;
    pen.imageSmoothingEnabled = false;
    const far = sources.map(source => apart([column, row], source).toFixed(0));
    says.textContent = `Distance in grey levels (root mean square): ${far[0]} from the first source, ${far[1]} from the second`;
    const place = k => k*(pixels+2)+2;   // of an image in the sheet
    const face = (i, j, x, y, size) =>
      pen.drawImage(image, place(i), place(j), pixels, pixels, x, y, size, size);
    for (let j = 0; j<times.length; j++) for (let i = 0; i<lam.length; i++) face(i, j, i*CELL, j*CELL, CELL);
    [sources[0], [column, row], sources[1]].forEach(([i, j], k) => {
      const size = k===1 ? LARGE : .75*LARGE;
      face(i, j, k*(wide-size)/2, high+GAP+(LARGE-size)/2, size);
    });
    Object.assign(pen, { strokeStyle: RED, lineWidth: 2 });
    pen.strokeRect(column*CELL+1, row*CELL+1, CELL-2, CELL-2);
  };
  const move = (i, j) => {
    column = Math.max(0, Math.min(lam.length-1, i));
    row = Math.max(0, Math.min(times.length-1, j));
    draw();
  };
  hand(canvas, (right, below) => {
    const j = Math.floor(below*(high+GAP+LARGE)/CELL);
    if (j<times.length) move(Math.floor(right*lam.length), j);   // below are the large ones
  },
    (right, up) => move(column+right, row-up));
  Object.assign(new Image(), { src: sheet, onload: e => { image = e.target; draw(); } });
  el.figure = { choice: () => [lam[column], times[row]], apart: () => image && sources.map(source => apart([column, row], source)) };
  draw();
} };
