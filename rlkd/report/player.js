// Plays the two games of the report: shows one step, moves between steps, marks where preferences differ.
(() => {
  const box = document.getElementById("duel");
  if (!box) return;
  const data = JSON.parse(document.getElementById("duel-data").textContent);
  const sides = [...box.querySelectorAll(".stage .side")];
  const slider = box.querySelector("input"), label = box.querySelector("output");
  const head = box.querySelector(".head"), play = box.querySelector("[data-do=play]");
  const differs = (step) => data.games.some((game) => game.differ[step]);
  let step = 0, timer = 0;

  const position = (place) => {
    const column = place % data.columns, row = Math.floor(place / data.columns);
    const share = (at, all) => (100 * at) / Math.max(all - 1, 1);
    return `${share(column, data.columns)}% ${share(row, data.rows)}%`;
  };
  const show = (to) => {
    step = (to + data.length) % data.length;
    sides.forEach((side, number) => {
      const game = data.games[number];
      side.querySelector(".sprite").style.backgroundPosition = position(number * data.length + step);
      side.querySelector(".screen").classList.toggle("differ", game.differ[step] === 1);
      side.querySelectorAll("[data-slot]").forEach((cell) => {
        cell.textContent = game[cell.dataset.slot][step];
      });
    });
    head.setAttribute("x", step);
    slider.value = step;
    label.textContent = `step ${data.start + step + 1}`;
  };
  const halt = () => {
    clearInterval(timer);
    timer = 0;
    play.textContent = "play";
  };
  const actions = {
    back: () => { halt(); show(step - 1); },
    next: () => { halt(); show(step + 1); },
    jump: () => {
      halt();
      for (let away = 1; away <= data.length; away++) {
        if (differs((step + away) % data.length)) return show(step + away);
      }
    },
    play: () => {
      if (timer) return halt();
      play.textContent = "pause";
      timer = setInterval(() => show(step + 1), 1000 / data.rate);
    },
  };
  box.querySelector(".buttons").hidden = false;
  box.querySelectorAll("[data-do]").forEach((button) => button.addEventListener("click", actions[button.dataset.do]));
  box.querySelectorAll("[data-jump]").forEach((button) =>
    button.addEventListener("click", () => { halt(); show(Number(button.dataset.jump)); }));
  slider.addEventListener("input", () => { halt(); show(Number(slider.value)); });
  box.querySelector(".timeline").addEventListener("click", (event) => {
    const { left, width } = event.currentTarget.getBoundingClientRect();
    halt();
    show(Math.min(data.length - 1, Math.max(0, Math.floor(((event.clientX - left) / width) * data.length))));
  });
  if (!data.games.some((game) => game.differ.includes(1))) box.querySelector("[data-do=jump]").hidden = true;
})();
