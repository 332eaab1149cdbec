/* sentencepiece.cpp: what C needs of the library SentencePiece, and nothing else. */
#include "sentencepiece.h"
#include <cstdio>
#include <exception>
#include <sentencepiece_processor.h>
#include <sentencepiece_trainer.h>
#include <sstream>
#include <string>
#include <unordered_map>
#include <vector>

namespace sp = sentencepiece;

struct al_sp_model {
  sp::SentencePieceProcessor processor;
};

namespace {

bool say(char *why, const std::string &text) {
  snprintf(why, AL_SP_WHY, "%s", text.c_str());
  return false;
}

/* f's result; an exception is false and its text. */
template <class F> bool guarded(char *why, F f) {
  try {
    return f();
  } catch (const std::exception &e) { return say(why, e.what()); } catch (...) {
    return say(why, "an exception of SentencePiece's");
  }
}

/* The lines that a C function gives. */
class Lines : public sp::SentenceIterator {
public:
  Lines(bool (*next)(void *, const char **, size_t *), void *from) : next_(next), from_(from) {
    Next();
  }
  bool done() const override { return done_; }
  void Next() override {
    const char *s = nullptr;
    size_t n = 0;
    done_ = !next_(from_, &s, &n);
    if (!done_) line_.assign(s, n);
  }
  const std::string &value() const override { return line_; }
  sp::util::Status status() const override { return sp::util::Status(); }

private:
  bool (*next_)(void *, const char **, size_t *);
  void *from_;
  bool done_ = false;
  std::string line_;
};

} // namespace

al_sp_model *al_sp_open(const char *data, size_t n, char *why) {
  al_sp_model *m = nullptr;
  const bool ok = guarded(why, [&] {
    m = new al_sp_model;
    const auto status = m->processor.LoadFromSerializedProto({data, n});
    return status.ok() || say(why, status.ToString());
  });
  if (ok) return m;
  al_sp_close(m);
  return nullptr;
}

void al_sp_close(al_sp_model *m) { delete m; }

int al_sp_size(const al_sp_model *m) { return m->processor.GetPieceSize(); }

const char *al_sp_piece(const al_sp_model *m, int id, size_t *n, enum al_sp_type *type) {
  const sp::SentencePieceProcessor &p = m->processor;
  const std::string &piece = p.IdToPiece(id);
  *n = piece.size();
  *type = p.IsUnknown(id)   ? AL_SP_UNKNOWN
          : p.IsControl(id) ? AL_SP_CONTROL
          : p.IsByte(id)    ? AL_SP_BYTE
          : p.IsUnused(id)  ? AL_SP_UNUSED
                            : AL_SP_NORMAL;
  return piece.data();
}

int al_sp_find(const al_sp_model *m, const char *piece, size_t n) {
  char why[AL_SP_WHY];
  int id = -1;
  guarded(why, [&] {
    id = m->processor.PieceToId({piece, n}); /* of none the unknown piece's */
    return true;
  });
  return id >= 0 && m->processor.IdToPiece(id) == std::string(piece, n) ? id : -1;
}

int al_sp_known(const al_sp_model *m, char role) {
  const sp::SentencePieceProcessor &p = m->processor;
  return role == 'b'   ? p.bos_id()
         : role == 'e' ? p.eos_id()
         : role == 'u' ? p.unk_id()
                       : p.pad_id();
}

bool al_sp_encode(const al_sp_model *m, const char *text, size_t n,
                  bool (*put)(void *to, const int *ids, size_t n), void *to, char *why) {
  return guarded(why, [&] {
    std::vector<int> ids;
    const auto status = m->processor.Encode({text, n}, &ids);
    return status.ok() ? put(to, ids.data(), ids.size()) : say(why, status.ToString());
  });
}

bool al_sp_decode(const al_sp_model *m, const int *ids, size_t n,
                  bool (*put)(void *to, const char *text, size_t n), void *to, char *why) {
  return guarded(why, [&] {
    std::string text;
    const auto status = m->processor.Decode(std::vector<int>(ids, ids + n), &text);
    return status.ok() ? put(to, text.data(), text.size()) : say(why, status.ToString());
  });
}

bool al_sp_train(const char *args, bool (*next)(void *from, const char **line, size_t *n),
                 void *from, bool (*put)(void *to, const char *text, size_t n), void *to,
                 char *why) {
  return guarded(why, [&] {
    Lines lines(next, from);
    std::string model;
    /* as a table: given as one text, the library writes it to stderr whatever the log level is */
    std::unordered_map<std::string, std::string> options;
    std::istringstream words(args);
    for (std::string w; words >> w;) {
      const size_t is = w.find('=');
      if (is == std::string::npos || w.compare(0, 2, "--") != 0) return say(why, "no option: " + w);
      options[w.substr(2, is - 2)] = w.substr(is + 1);
    }
    const auto status = sp::SentencePieceTrainer::Train(options, &lines, &model);
    return status.ok() ? put(to, model.data(), model.size()) : say(why, status.ToString());
  });
}
