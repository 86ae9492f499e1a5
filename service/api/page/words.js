/* Numbers and states as people say them. */

const number = new Intl.NumberFormat('en', { maximumFractionDigits: 1 });

export function bytes(count) {
  if (count < 1e6) return `${number.format(Math.max(1, Math.round(count / 1e3)))} KB`;
  return `${number.format(count / 1e6)} MB`;
}

export function duration(seconds) {
  const whole = Math.max(1, Math.round(seconds));
  if (whole < 100) return `${whole} s`;
  if (whole < 5400) return `${Math.round(whole / 60)} min`;
  return `${number.format(whole / 3600)} h`;
}

export const size = ({ width, height }) => `${width} × ${height}`;

export const times = (scale) => `${number.format(scale)}×`;

const STATES = {
  waiting: () => 'Waiting to upload',
  uploading: ({ sent }) => (sent < 1 ? `Uploading, ${Math.round(100 * sent)} %` : 'Uploaded, being checked'),
  held: ({ problem, resumesIn }) => `${problem.title}. Next try in ${duration(resumesIn)}`,
  queued: ({ position, left }) => joined(ahead(position), left && `about ${duration(left)}`),
  running: ({ tilesDone, tilesTotal, left }) =>
    joined('Enlarging', left && `${duration(left)} left`, tilesTotal > 1 && `${tilesDone} of ${tilesTotal} tiles`),
  fetching: () => 'Fetching the result',
  done: ({ result }) => joined(result.width && size(result), bytes(result.blob.size)),
  failed: ({ problem }) => problem.title,
  cancelled: () => 'Cancelled',
};

/** How a photo stands, in one line. */
export function status(photo) {
  return STATES[photo.state](photo);
}

function ahead(position) {
  if (position === null) return 'In line';
  return position === 0 ? 'Next in line' : `${position} ahead in line`;
}

function joined(...parts) {
  return parts.filter(Boolean).join(' · ');
}
