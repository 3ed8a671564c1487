// Numbers for people: few digits, a unit, always of one width in a table.

const plain = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

/** A count with thin separators: 12,480. */
export const count = (value) => (value === null || value === undefined ? "–" : plain.format(value));

/** Three digits that matter: 0.42, 8.31, 118, 1.2k. */
export function short(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  const size = Math.abs(value);
  if (size >= 1e12) return `${three(value / 1e12)}T`;
  if (size >= 1e9) return `${three(value / 1e9)}G`;
  if (size >= 1e6) return `${three(value / 1e6)}M`;
  if (size >= 1e4) return `${three(value / 1e3)}k`;
  return three(value);
}

function three(value) {
  const size = Math.abs(value);
  if (size >= 100 || value === 0) return value.toFixed(0);
  return size >= 10 ? value.toFixed(1) : value.toFixed(2);
}

/** A duration given in seconds: 640 µs, 84 ms, 2.31 s, 3 min 20 s. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined || Number.isNaN(seconds)) return "–";
  if (seconds === 0) return "0 s";
  if (seconds < 0.001) return `${Math.round(seconds * 1e6)} µs`;
  if (seconds < 0.01) return `${(seconds * 1e3).toFixed(2)} ms`;
  if (seconds < 0.1) return `${(seconds * 1e3).toFixed(1)} ms`;
  if (seconds < 1) return `${(seconds * 1e3).toFixed(0)} ms`;
  if (seconds < 10) return `${seconds.toFixed(2)} s`;
  if (seconds < 100) return `${seconds.toFixed(1)} s`;
  const rounded = Math.round(seconds);
  if (rounded < 3600) return `${Math.floor(rounded / 60)} min ${rounded % 60} s`;
  return `${Math.floor(rounded / 3600)} h ${Math.floor((rounded % 3600) / 60)} min`;
}

export const milliseconds = (value) => duration(value === null || value === undefined ? null : value / 1000);

/** A number with an SI prefix and its unit: 21.9 GB/s, 946 Gop/s. */
export const si = (value, unit) => short(value).replace(/([kMGT]?)$/, ` $1${unit}`);

/** Bytes in binary units: 412 MiB. */
export function bytes(value) {
  if (value === null || value === undefined) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 ? value : three(value)} ${units[unit]}`;
}

/** A share of one: 42 %, 0.3 %. */
export function percent(share) {
  if (share === null || share === undefined || Number.isNaN(share)) return "–";
  const value = share * 100;
  if (value === 0) return "0 %";
  if (value > 0 && value < 0.05) return "< 0.1 %";
  return `${value !== 0 && value < 1 ? value.toFixed(1) : value.toFixed(value < 10 ? 1 : 0)} %`;
}

/** The time of day of a moment in ms since 1970. */
export const clock = (moment) => new Date(moment).toLocaleTimeString("en-GB");

/** How long ago a moment was, in words: "now", "12 s ago", "3 min ago". */
export function ago(moment, now = Date.now()) {
  const seconds = Math.max(0, Math.round((now - moment) / 1000));
  if (seconds < 2) return "now";
  if (seconds < 60) return `${seconds} s ago`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ago`;
  return new Date(moment).toLocaleDateString("en-GB");
}

/** Steps of 1, 2 or 5 that divide 0 to `most` into about `wanted` parts; of bytes, in whole units of 1024. */
export function ticks(most, wanted = 4, binary = false) {
  if (!(most > 0)) return [0, 1];
  if (binary) {
    const unit = 1024 ** Math.floor(Math.log2(Math.max(1, most / wanted)) / 10);
    return ticks(most / unit, wanted).map((value) => value * unit);
  }
  const rough = most / wanted;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((one) => one * power).find((one) => one >= rough * 0.999);
  const found = [];
  for (let value = 0; value < most + step * 0.999; value += step) found.push(Number(value.toPrecision(12)));
  return found;
}
