// What all figures that answer are made of: elements, a slider, a square to draw on, a hand.
export const BLUE = '#004488', RED = '#bb5566', YELLOW = '#ddaa33', INK = '#222222', GREY = '#888888';

export const make = (tag, inside, set = {}, ...children) => {
  const e = Object.assign(document.createElement(tag), set);
  e.append(...children);
  inside?.append(e);
  return e;
};

export const swatch = colour =>   // of a line, on the white of the picture
  `<span style="color: ${colour}; background: white; padding: 0 .15em">&#9644;</span>`;

export const frame = el => {   // a place for the picture, and one beside or below it
  el.replaceChildren();
  el.dataset.lmSuppressShortcuts = 'true';   // JupyterLab leaves the keys to us
  const box = make('div', el), side = document.createElement('div');
  box.style.cssText = 'display: flex; flex-wrap: wrap; gap: 1rem; align-items: flex-start';
  side.style.cssText = 'flex: 1 1 14rem; min-width: 14rem; font-size: .9em; font-variant-numeric: tabular-nums';
  return { box, side };
};

export const picture = (box, width, height, label) => {   // a canvas in units of its own pixels
  const canvas = make('canvas', box, { tabIndex: 0 });
  const scale = Math.min(3, window.devicePixelRatio || 1), pen = canvas.getContext('2d');
  Object.assign(canvas, { width: width*scale, height: height*scale });
  canvas.style.cssText =
    `width: ${width}px; max-width: 100%; aspect-ratio: ${width}/${height}; touch-action: none; background: white`;
  canvas.setAttribute('role', 'application');
  canvas.setAttribute('aria-label', label);
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  return { canvas, pen };
};

export const still = canvas => {   // only to be looked at
  canvas.removeAttribute('tabindex');
  canvas.setAttribute('role', 'img');
  canvas.style.touchAction = 'auto';
};

export const slider = (side, name, set, told) => {   // told(value) is called when it is moved
  const input = make('input', null, { type: 'range', ...set }), shown = make('span');   // an output would take the label
  input.style.cssText = 'width: 100%';
  make('label', side, {}, name, ' = ', shown, input).style.display = 'block';
  input.oninput = () => told(+input.value);
  return { input, shown };
};

export const hand = (canvas, to, by) => {   // to(share right, share down), by(right, up)
  const at = e => {
    const r = canvas.getBoundingClientRect();
    to((e.clientX-r.left)/r.width, (e.clientY-r.top)/r.height);
  };
  canvas.onpointerdown = e => { canvas.setPointerCapture(e.pointerId); at(e); };
  canvas.onpointermove = e => { if (canvas.hasPointerCapture(e.pointerId)) at(e); };
  const keys = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
  canvas.onkeydown = e => {
    if (!keys[e.key]) return;
    e.preventDefault();
    by(...keys[e.key]);
  };
};
