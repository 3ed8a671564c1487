// Conversations in this browser's storage: a list, and one record for each, so that a save writes only one.

const LIST = "trimtab.chats";
const ONE = (id) => `trimtab.chat.${id}`;

/** What a field that is left empty means is the server's choice; this one is ours. */
export const SETTINGS = { temperature: 0.7 };

/** Where storage is forbidden or full, conversations live as long as the page. */
class Store {
  #memory = new Map();
  full = false;

  list() {
    return (this.#read(LIST) ?? []).sort((a, b) => b.updated - a.updated);
  }

  get(id) {
    return this.#read(ONE(id));
  }

  make() {
    return {
      id: Array.from(crypto.getRandomValues(new Uint8Array(6)), (byte) =>
        byte.toString(16).padStart(2, "0"),
      ).join(""),
      title: "",
      system: "",
      model: null,
      settings: { ...SETTINGS },
      messages: [],
      updated: Date.now(),
    };
  }

  /** Write a conversation, and its line of the list. */
  save(one) {
    one.updated = Date.now();
    this.#write(ONE(one.id), one);
    const others = this.list().filter((line) => line.id !== one.id);
    this.#write(LIST, [{ id: one.id, title: one.title, updated: one.updated }, ...others]);
  }

  remove(id) {
    this.#memory.delete(ONE(id));
    try {
      localStorage.removeItem(ONE(id));
    } catch {
      // It was never written.
    }
    this.#write(
      LIST,
      this.list().filter((line) => line.id !== id),
    );
    this.full = false;
  }

  #read(key) {
    if (this.#memory.has(key)) return structuredClone(this.#memory.get(key));
    try {
      return JSON.parse(localStorage.getItem(key));
    } catch {
      return null;
    }
  }

  #write(key, value) {
    try {
      localStorage.setItem(key, JSON.stringify(value));
      this.#memory.delete(key);
    } catch {
      this.full = true;
      this.#memory.set(key, structuredClone(value));
    }
  }
}

export const store = new Store();

/** The first words of a conversation, as its name. */
export function title(text) {
  const line = text.trim().split("\n", 1)[0];
  return line.length > 48 ? `${line.slice(0, 47).trimEnd()}…` : line;
}
