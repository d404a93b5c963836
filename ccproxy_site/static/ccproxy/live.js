// The live view: shows each picture that /ws/live sends and says that it has taken it; no other is sent before that.
"use strict";

(() => {
    const page = document.getElementById("cc-live");
    const state = document.getElementById("cc-live-state");
    const rows = document.getElementById("cc-live-rows");
    const figure = (name) => document.getElementById(`cc-live-${name}`);

    const LONGEST_PAUSE = 30;
    // Nothing comes for at most ten seconds, unless the connection is dead and nobody has said so.
    const SILENCE = 25;
    const ENDINGS = {
        4401: ["You are signed out. ", "Sign in again", page.dataset.login],
        4403: ["You may not see requests any more: ask an administrator for the right to view usage records. ", "Leave", "/admin/"],
    };

    let socket = null;
    let failures = 0;
    let untaken = null; // a picture that came while nobody could see it
    let heardAt = 0;
    let retryAt = 0;
    let isOver = false;

    function tell(text, kind = "cc-note") {
        state.className = kind;
        write(state, text);
    }

    function end(code) {
        isOver = true;
        const [text, label, address] = ENDINGS[code];
        const link = document.createElement("a");
        link.className = "cc-link";
        link.href = address;
        link.textContent = label;
        tell(text, "cc-warning");
        state.append(link);
        blank();
    }

    // Old figures would be taken for new ones.
    function blank() {
        rows.replaceChildren();
        for (const name of ["running", "longest", "input", "output"]) {
            figure(name).textContent = "–";
        }
        figure("more").textContent = figure("since").textContent = "";
    }

    function span(seconds) {
        const minutes = Math.floor(seconds / 60);
        return minutes ? `${minutes} min ${seconds % 60} s` : `${seconds} s`;
    }

    const tokens = (count) => (count ? count.toLocaleString("en") : "–");

    // Of each cell how it looks, what it says, and what it says below that.
    const COLUMNS = [
        ["cc-strong", (row) => row.key],
        ["cc-break", (row) => row.model, (row) => `${row.provider}, ${row.streamed ? "a stream" : "in one piece"}`],
        ["cc-number", (row) => span(row.age)],
        ["cc-number", (row) => tokens(row.input)],
        ["cc-number", (row) => tokens(row.output)],
        ["cc-number", (row) => row.attempt],
        ["cc-number cc-faint", (row) => row.request_id],
    ];

    function newCell(line, kind, parts) {
        const cell = Object.assign(line.insertCell(), { className: kind });
        cell.append(document.createElement("div"));
        if (parts > 1) {
            cell.append(Object.assign(document.createElement("div"), { className: "cc-label" }));
        }
        return cell;
    }

    // Only what has changed: who has marked a request's id to copy it keeps the mark.
    function write(element, text) {
        if (element.textContent !== text) {
            element.textContent = text;
        }
    }

    function list(running) {
        while (rows.rows.length > running.length) {
            rows.lastElementChild.remove();
        }
        running.forEach((row, index) => {
            const line = rows.rows[index] || rows.insertRow();
            COLUMNS.forEach(([kind, ...texts], column) => {
                const cell = line.cells[column] || newCell(line, kind, texts.length);
                texts.forEach((text, part) => write(cell.children[part], String(text(row))));
            });
        });
    }

    function show(picture) {
        const sum = (name) => picture.rows.reduce((total, row) => total + row[name], 0);
        figure("running").textContent = picture.running.toLocaleString("en");
        figure("more").textContent = picture.more ? `${picture.more.toLocaleString("en")} younger ones are not listed` : "";
        figure("longest").textContent = picture.rows.length ? span(picture.rows[0].age) : "–";
        figure("since").textContent = picture.since ? `since ${new Date(picture.since * 1000).toLocaleTimeString()}` : "";
        figure("input").textContent = tokens(sum("input"));
        figure("output").textContent = tokens(sum("output"));
        list(picture.rows);
        tell(picture.running ? "Live: told once a second." : "Live: nothing runs now.");
    }

    function take() {
        if (untaken !== null && !document.hidden) {
            show(JSON.parse(untaken));
            untaken = null;
            socket.send("taken");
        }
    }

    function connect() {
        retryAt = 0;
        heardAt = Date.now();
        untaken = null;
        const scheme = location.protocol === "https:" ? "wss:" : "ws:";
        socket = new WebSocket(`${scheme}//${location.host}/ws/live`);
        let opened = false;
        socket.onopen = () => {
            opened = true;
        };
        socket.onmessage = (message) => {
            failures = 0;
            heardAt = Date.now();
            untaken = message.data;
            take();
        };
        socket.onclose = (closing) => lost(closing.code, opened);
    }

    async function lost(code, opened) {
        socket = null;
        const ending = code in ENDINGS ? code : opened ? 0 : await refusal();
        if (ending) {
            end(ending);
            return;
        }
        blank();
        failures += 1;
        // Not everybody at the same second again.
        const pause = Math.min(2 ** (failures - 1), LONGEST_PAUSE) * (0.75 + Math.random() / 2);
        retryAt = Date.now() + 1000 * pause;
        countDown();
    }

    // A handshake that was refused tells a script nothing: this page's own address says who may not look.
    async function refusal() {
        try {
            const reply = await fetch(location.href, { cache: "no-store", redirect: "manual" });
            return reply.type === "opaqueredirect" ? 4401 : reply.status === 403 ? 4403 : 0;
        } catch {
            return 0;
        }
    }

    function countDown() {
        const seconds = Math.max(Math.ceil((retryAt - Date.now()) / 1000), 0);
        const hint = failures > 3 ? " If this goes on: the server in front must pass WebSockets on at /ws/live, and CSRF_TRUSTED_ORIGINS must name this address." : "";
        tell(`Connection lost, trying again in ${seconds} s.${hint}`, "cc-warning");
    }

    function tick() {
        if (isOver || document.hidden) {
            return; // a browser slows the timers of a hidden page: it is looked at when it shows again
        }
        if (retryAt && Date.now() >= retryAt) {
            connect();
        } else if (retryAt) {
            countDown();
        } else if (socket !== null && Date.now() - heardAt > 1000 * SILENCE) {
            socket.close();
        }
    }

    document.addEventListener("visibilitychange", () => {
        if (isOver) {
            return;
        }
        if (document.hidden) {
            tell("Paused while this page is hidden.");
        } else if (socket !== null) {
            heardAt = Date.now();
            take();
        }
    });

    setInterval(tick, 250);
    connect();
})();
