"use strict";
// Without this script the players have the browser's own controls; with it, those that cover no
// picture: a click plays, and a slider goes from frame to frame.
const videos = [...document.querySelectorAll("video")];
const play = document.querySelector("[data-play]");
const speeds = [...document.querySelectorAll("[data-speed]")];

function toggle(video) {
  if (video.paused) video.play().catch(() => {});
  else video.pause();
}

function scrubber(video) {
  const frames = Number(video.dataset.frames) || 100;
  const row = document.createElement("div");
  const slider = document.createElement("input");
  const place = document.createElement("output");
  Object.assign(slider, { type: "range", min: 0, max: frames - 1, step: 1 });
  slider.setAttribute("aria-label", "Frame of " + video.getAttribute("aria-label"));
  row.className = "scrub";
  row.append(slider, place);
  video.after(row);
  const show = () => {
    const frame = Math.min(frames - 1, Math.floor((video.currentTime / video.duration) * frames + 1e-3));
    slider.value = frame;
    place.textContent = video.dataset.frames ? `frame ${frame}` : `${frame} %`;
  };
  const seek = (frame) => {
    video.currentTime = ((Number(frame) + 0.5) / frames) * video.duration;
  };
  slider.addEventListener("input", () => {
    video.pause();
    seek(slider.value);
  });
  video.addEventListener("timeupdate", show);
  video.addEventListener("seeked", show);
  // Many clips begin in black: a frame from the middle shows what a clip is about.
  const start = () => seek(Math.floor(frames / 2));
  if (video.readyState >= 1) start();
  else video.addEventListener("loadedmetadata", start, { once: true });
}

function name() {
  play.textContent = videos.some((video) => !video.paused) ? "Pause all" : "Play all";
}

for (const video of videos) {
  video.controls = false;
  video.tabIndex = 0;
  scrubber(video);
  video.addEventListener("click", () => toggle(video));
  video.addEventListener("dblclick", () => video.requestFullscreen?.());
  video.addEventListener("keydown", (event) => {
    if (event.key !== " " && event.key !== "Enter") return;
    event.preventDefault();
    toggle(video);
  });
  video.addEventListener("play", name);
  video.addEventListener("pause", name);
}

play?.addEventListener("click", () => {
  const pausing = videos.some((video) => !video.paused);
  for (const video of videos) {
    if (pausing) {
      video.pause();
    } else {
      video.currentTime = 0;
      video.play().catch(() => {});
    }
  }
});

for (const button of speeds) {
  button.addEventListener("click", () => {
    for (const other of speeds) other.setAttribute("aria-pressed", String(other === button));
    for (const video of videos) video.playbackRate = Number(button.dataset.speed);
  });
}
