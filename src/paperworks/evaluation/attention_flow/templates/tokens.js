// Point at a token: the same token lights up under every method of its text.
for (const text of document.querySelectorAll(".af-text")) {
  const light = (event, on) => {
    const place = event.target.dataset && event.target.dataset.place;
    if (place === undefined) return;
    for (const token of text.querySelectorAll(`[data-place="${place}"]`)) token.classList.toggle("lit", on);
  };
  text.addEventListener("mouseover", (event) => light(event, true));
  text.addEventListener("mouseout", (event) => light(event, false));
}
