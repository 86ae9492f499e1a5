/* A zip of files that are compressed already: they are stored as they are (APPNOTE.TXT 6.3.9, without Zip64). */

const MOST = 0xffffffff;
const UTF8_NAMES = 0x0800;

const TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit += 1) crc = crc & 1 ? (crc >>> 1) ^ 0xedb88320 : crc >>> 1;
  return crc;
});

/** Whether the files fit into one zip. */
export function fits(files) {
  return files.length < 0xffff && files.reduce((sum, { name, blob }) => sum + blob.size + 4 * name.length + 200, 0) < MOST;
}

/** The zip of `{name, blob}`s; of two with one name the second gets a number. The blobs are not copied. */
export async function zip(files, now = new Date()) {
  const taken = new Set();
  const parts = [];
  const directory = [];
  let offset = 0;
  for (const { name, blob } of files) {
    const encoded = new TextEncoder().encode(free(name, taken));
    const common = fields(now, await crc32(blob), blob.size, encoded.length);
    const head = [record(0x04034b50, common), encoded];
    parts.push(...head, blob);
    directory.push(record(0x02014b50, [[20, 2], ...common, [0, 2], [0, 2], [0, 2], [0, 4], [offset, 4]]), encoded);
    offset += head[0].length + encoded.length + blob.size;
  }
  const size = directory.reduce((sum, part) => sum + part.length, 0);
  const count = files.length;
  const end = record(0x06054b50, [[0, 2], [0, 2], [count, 2], [count, 2], [size, 4], [offset, 4], [0, 2]]);
  return new Blob([...parts, ...directory, end], { type: 'application/zip' });
}

/* [value, bytes] of what the local header and the directory have in common. */
function fields(now, crc, size, nameLength) {
  const time = (now.getHours() << 11) | (now.getMinutes() << 5) | (now.getSeconds() >> 1);
  const date = ((now.getFullYear() - 1980) << 9) | ((now.getMonth() + 1) << 5) | now.getDate();
  return [[20, 2], [UTF8_NAMES, 2], [0, 2], [time, 2], [date, 2], [crc, 4], [size, 4], [size, 4], [nameLength, 2], [0, 2]];
}

function record(signature, values) {
  const all = [[signature, 4], ...values];
  const made = new DataView(new ArrayBuffer(all.reduce((sum, [, bytes]) => sum + bytes, 0)));
  let at = 0;
  for (const [value, bytes] of all) {
    if (bytes === 2) made.setUint16(at, value, true);
    else made.setUint32(at, value, true);
    at += bytes;
  }
  return new Uint8Array(made.buffer);
}

async function crc32(blob) {
  const reader = blob.stream().getReader();
  let crc = MOST;
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    for (const byte of part.value) crc = (crc >>> 8) ^ TABLE[(crc ^ byte) & 0xff];
  }
  return (crc ^ MOST) >>> 0;
}

function free(name, taken) {
  const dot = name.lastIndexOf('.');
  const [stem, end] = dot > 0 ? [name.slice(0, dot), name.slice(dot)] : [name, ''];
  let found = name;
  for (let copy = 2; taken.has(found); copy += 1) found = `${stem} (${copy})${end}`;
  taken.add(found);
  return found;
}
