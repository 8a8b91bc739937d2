// Losses and samples under the pointer. Without a script the page shows the same pictures and a sample of each map.
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

for (const figure of document.querySelectorAll(".contexts")) {
  const maps = [...figure.querySelectorAll(".map")];
  const rings = maps.map((map) => map.querySelector(".ring"));
  const [thumb, line, question] = figure.querySelectorAll(".inspector .thumb, .inspector p");
  const samples = JSON.parse(figure.querySelector("script").textContent);
  let chosen = 0;
  const choose = (index) => {
    chosen = index;
    const sample = samples[index];
    rings.forEach((ring, which) => {
      ring.setAttribute("cx", sample.at[which][0]);
      ring.setAttribute("cy", sample.at[which][1]);
    });
    thumb.className = "thumb " + (sample.picture || "");
    line.textContent = sample.line;
    question.textContent = sample.question;
  };
  // The nearest sample; null leaves one out.
  const nearest = (distance) => {
    let best = -1;
    let least = Number.MAX_VALUE;
    samples.forEach((sample, index) => {
      const found = distance(sample, index);
      if (found !== null && found < least) [best, least] = [index, found];
    });
    return best;
  };
  const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  maps.forEach((map, which) => {
    const follow = (event) => {
      const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(map.getScreenCTM().inverse());
      choose(nearest(({ at }) => Math.hypot(at[which][0] - point.x, at[which][1] - point.y)));
    };
    map.addEventListener("pointermove", follow);
    map.addEventListener("pointerdown", follow);
    map.addEventListener("keydown", (event) => {
      if (!(event.key in arrows)) return;
      event.preventDefault();
      const [dx, dy] = arrows[event.key];
      const [x, y] = samples[chosen].at[which];
      const next = nearest(({ at }, index) => {
        const ahead = (at[which][0] - x) * dx + (at[which][1] - y) * dy;
        const aside = Math.abs((at[which][0] - x) * dy) + Math.abs((at[which][1] - y) * dx);
        return index === chosen || ahead <= 0 ? null : ahead + 2 * aside;
      });
      if (next >= 0) choose(next);
    });
  });
}
