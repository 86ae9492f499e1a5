/* The ways a photo comes to the page: chosen, dropped, pasted. */

/** `take(files)` is called with what comes. */
export function openIntake(take) {
  const chooser = document.getElementById('files');
  for (const id of ['intake', 'add']) document.getElementById(id).addEventListener('click', () => chooser.click());
  chooser.addEventListener('change', () => {
    take([...chooser.files]);
    chooser.value = ''; // the same file may be chosen again
  });
  addEventListener('paste', (event) => {
    const files = [...event.clipboardData.files];
    if (files.length) take(files);
  });
  acceptDrops(take);
}

function acceptDrops(take) {
  const over = (event) => event.dataTransfer?.types.includes('Files');
  const show = (dropping) => document.body.classList.toggle('is-dropping', dropping);
  addEventListener('dragover', (event) => {
    if (!over(event)) return;
    event.preventDefault();
    event.dataTransfer.dropEffect = 'copy';
    show(true);
  });
  addEventListener('dragleave', (event) => {
    if (event.relatedTarget === null) show(false);
  });
  addEventListener('drop', (event) => {
    if (!over(event)) return;
    event.preventDefault();
    show(false);
    take([...event.dataTransfer.files]);
  });
}
