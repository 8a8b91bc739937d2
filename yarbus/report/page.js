// Losses under the pointer. The page says everything without it.
for (const figure of document.querySelectorAll(".curves")) {
  const area = figure.querySelector(".area");
  const cursor = figure.querySelector(".cursor");
  const readout = figure.querySelector(".readout");
  const curves = JSON.parse(figure.querySelector("script").textContent);
  const show = (event) => {
    const box = area.getBoundingClientRect();
    const x = (100 * (event.clientX - box.left)) / box.width;
    const near = (points) => points.reduce((a, b) => (Math.abs(b[2] - x) < Math.abs(a[2] - x) ? b : a));
    const at = near(curves[0].points);
    cursor.style.left = at[2] + "%";
    cursor.style.opacity = 1;
    readout.textContent = "step " + at[0];
    for (const curve of curves) {
      const name = document.createElement("b");
      name.textContent = curve.name;
      readout.append(name, String(near(curve.points)[1]));
    }
  };
  area.addEventListener("pointermove", show);
  area.addEventListener("pointerdown", show);
  area.addEventListener("pointerleave", () => (cursor.style.opacity = 0));
}
