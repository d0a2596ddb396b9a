// Algorithm 2 by a table of steps, as `sample` of chapter 11; and what chapter 12 does with the same steps.
// Images are flat lists of numbers.
import { normals } from './noise.js';

export const noise = (seed, size, sameLength) => {   // () -> the next draw, as `Noise` of chapter 11
  const next = normals(seed);
  return () => {
    const z = next(size);
    if (!sameLength) return z;
    const length = Math.sqrt(z.reduce((sum, v) => sum+v*v, 0)/size);
    return z.map(v => v/length);
  };
};

export const noisy = (x_0, alphaBar, z) =>   // eq. 4
  x_0.map((x, i) => Math.sqrt(alphaBar)*x + Math.sqrt(1-alphaBar)*z[i]);

export async function* sample(answer, steps, noise, clip, x_t, then = x_u => x_u) {
  let guesses = [];
  for (const { t, u, a, b, c, d, e, f, s } of steps) {
    const z = s ? noise() : null;
    if (b) {
      const out = await answer(x_t, t);
      const x_0 = x_t.map((x, i) => a*x + b*out[i]);
      guesses = [clip ? x_0.map(x => Math.max(-1, Math.min(1, x))) : x_0, ...guesses.slice(0, 2)];
      if (u!==t) yield { t, x_t, x_0: guesses[0] };
    }
    const [x_0, one = x_0, two = x_0] = guesses;
    x_t = x_t.map((x, i) => c*x_0[i] + d*x + e*one[i] + f*two[i] + (z ? s*z[i] : 0));
    x_t = then(x_t, u);
  }
  yield { t: 0, x_t, x_0: x_t };
}

export const chain = (answer, table, way, { seed, picture, t, hole }) => {   // the states, from noise or from a picture
  const { alpha_bar: alphaBar, columns, shape, clip_x0: clip } = table;
  const { same_length: sameLength, steps } = table.ways[way];
  const named = steps.map(row => Object.fromEntries(columns.map((name, k) => [name, row[k]])));
  const next = noise(seed, shape.reduce((a, b) => a*b), sameLength);
  if (hole) {                                       // as `DDPM.inpaint`
    const then = (x_u, u) => {
      const known = noisy(picture, alphaBar[u], next());
      return x_u.map((x, i) => hole[i%hole.length] ? x : known[i]);
    };
    return sample(answer, named, next, clip, then(next(), table.T), then);
  }
  if (!picture) return sample(answer, named, next, clip, next());
  const lost = noisy(picture, alphaBar[t], next());   // then `DDPM.decode`, with the same stream of noise
  return sample(answer, named.filter(step => step.t<=t), next, clip, lost);
};
