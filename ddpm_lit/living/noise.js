// Standard normal numbers, the same for a seed as PyTorch's on a CPU: Mersenne Twister, then pairs by Box and Muller.
const N = 624, M = 397;

export const numbers = seed => {   // () -> the next whole number of 32 bits
  const state = new Uint32Array(N).fill(seed);
  for (let k = 1; k<N; k++) state[k] = Math.imul(1812433253, state[k-1]^state[k-1]>>>30)+k;
  let at = N;
  const turn = () => {
    for (let k = 0; k<N; k++) {
      const y = state[k]&0x80000000 | state[(k+1)%N]&0x7fffffff;
      state[k] = state[(k+M)%N]^y>>>1^(y&1 ? 0x9908b0df : 0);
    }
    at = 0;
  };
  return () => {
    if (at===N) turn();
    let y = state[at++];
    y ^= y>>>11;
    y ^= y<<7&0x9d2c5680;
    y ^= y<<15&0xefc60000;
    return (y^y>>>18)>>>0;
  };
};

export const normals = seed => {   // n -> the next n, a multiple of 16
  const next = numbers(seed);
  return n => {
    const z = Float32Array.from({ length: n }, () => (next()&0xffffff)/2**24);
    for (let k = 0; k<n; k += k%8===7 ? 9 : 1) {
      const length = Math.sqrt(-2*Math.log(1-z[k])), turned = 2*Math.PI*z[k+8];
      z[k] = length*Math.cos(turned);
      z[k+8] = length*Math.sin(turned);
    }
    return z;
  };
};
