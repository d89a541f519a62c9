// SPDX-License-Identifier: Apache-2.0
#include "runtime/client/config_loader.h"

#include <unistd.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/mark.h>
#include <yaml-cpp/parser.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <exception>
#include <map>
#include <memory>
#include <sstream>
#include <string_view>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "proto/wire/config_values.h"
#include "proto/wire/text.h"

namespace terse::client {
namespace {

using wire::ConfigKey;
using wire::Quoted;
using wire::View;

// Ends the parse from within a callback. Never leaves this file.
struct Refused {
  absl::Status status;
};

bool IsSection(std::string_view name) {
  const std::string prefix = absl::StrCat(View(name), ".");
  const auto keys = wire::ConfigKeys();
  return std::any_of(keys.begin(), keys.end(),
                     [&prefix](const ConfigKey& key) { return key.path.substr(0, prefix.size()) == prefix; });
}

// "topk.density, topk.index": the keys of a section.
std::string KeysOf(std::string_view section) {
  const std::string prefix = absl::StrCat(View(section), ".");
  std::vector<std::string> names;
  for (const ConfigKey& key : wire::ConfigKeys()) {
    if (key.path.substr(0, prefix.size()) == prefix) names.emplace_back(key.path.substr(prefix.size()));
  }
  return absl::StrJoin(names, ", ");
}

// The known key or section that was most likely meant by `path`.
std::string_view NearestKey(std::string_view path) {
  std::vector<std::string_view> names;
  for (const ConfigKey& key : wire::ConfigKeys()) {
    names.push_back(key.path);
    const size_t dot = key.path.find('.');
    if (dot != std::string_view::npos) names.push_back(key.path.substr(0, dot));
  }
  return wire::Nearest(path, names);
}

bool IsList(const ConfigKey& key) { return key.type.substr(0, 4) == "list"; }

std::string At(std::string_view source, const YAML::Mark& mark) {
  return absl::StrCat(View(source), ", line ", mark.line + 1, ", column ", mark.column + 1, ": ");
}

// Follows the parser's events through the one shape that a configuration has, and sets what it finds.
class Reader : public YAML::EventHandler {
 public:
  Reader(std::string_view source, wire::Settings* settings) : source_(source), settings_(settings) {}

  void OnDocumentStart(const YAML::Mark&) override {}
  void OnDocumentEnd() override {}

  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    RefuseAnchor(mark, anchor);
    switch (place_) {
      case Place::kDocument:
        return;  // nothing but comments
      case Place::kKey:
        Refuse(mark, "a key is missing");
      case Place::kValue:
        Refuse(mark, Quoted(path_), " has no value; ", Due());
      case Place::kList:
        Refuse(mark, Quoted(path_), " has an element without a value; ", Due());
    }
  }

  void OnAlias(const YAML::Mark& mark, YAML::anchor_t anchor) override { RefuseAnchor(mark, anchor); }

  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    RefuseAnchor(mark, anchor);
    RefuseTag(mark, tag);
    switch (place_) {
      case Place::kDocument:
        Refuse(mark, "a configuration is keys with values, such as \"compressor: topk\", not ",
               Quoted(value));
      case Place::kKey:
        return TakeKey(mark, value);
      case Place::kValue:
        if (key_ == nullptr) Refuse(mark, Quoted(path_), " is a section; ", Due(), ", not ", Quoted(value));
        return TakeValue(mark, value);
      case Place::kList:
        // What separates or encloses elements in the text of a list cannot be part of one.
        if (value.find_first_of(",\"'") != std::string::npos) {
          Refuse(mark, Quoted(path_), " has the element ", Quoted(value), "; ", Due());
        }
        elements_.push_back(absl::StrCat("\"", value, "\""));
        return;
    }
  }

  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    RefuseAnchor(mark, anchor);
    RefuseTag(mark, tag);
    if (place_ == Place::kDocument) Refuse(mark, "a configuration is keys with values, not a list");
    if (place_ == Place::kKey) Refuse(mark, "a key must be a word, not a list");
    if (place_ == Place::kList || key_ == nullptr || !IsList(*key_)) {
      Refuse(mark, Quoted(path_), " cannot hold this list; ", Due());
    }
    place_ = Place::kList;
    list_mark_ = mark;
    elements_.clear();
  }

  void OnSequenceEnd() override {
    TakeValue(list_mark_, absl::StrCat("[", absl::StrJoin(elements_, ", "), "]"));
  }

  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    RefuseAnchor(mark, anchor);
    RefuseTag(mark, tag);
    if (place_ == Place::kKey) Refuse(mark, "a key must be a word, not a map");
    if (place_ == Place::kList || (place_ == Place::kValue && key_ != nullptr)) {
      Refuse(mark, Quoted(path_), " cannot hold a map; ", Due());
    }
    if (place_ == Place::kValue) section_ = path_;
    place_ = Place::kKey;
  }

  void OnMapEnd() override { section_.clear(); }

 private:
  enum class Place { kDocument, kKey, kValue, kList };

  template <typename... Parts>
  [[noreturn]] void Refuse(const YAML::Mark& mark, const Parts&... parts) const {
    throw Refused{absl::InvalidArgumentError(absl::StrCat(At(source_, mark), parts...))};
  }

  void RefuseAnchor(const YAML::Mark& mark, YAML::anchor_t anchor) const {
    if (anchor != 0) Refuse(mark, "YAML anchors (&) and aliases (*) are not allowed in a configuration");
  }

  // A plain scalar's tag is "?", a quoted one's "!".
  void RefuseTag(const YAML::Mark& mark, const std::string& tag) const {
    if (!tag.empty() && tag != "?" && tag != "!") {
      Refuse(mark, "the YAML tag ", Quoted(tag), " is not allowed in a configuration");
    }
  }

  std::string Due() const {
    return key_ == nullptr ? absl::StrCat("expected its keys ", KeysOf(path_))
                           : absl::StrCat("expected ", View(key_->type), ": ", View(key_->allowed));
  }

  void TakeKey(const YAML::Mark& mark, const std::string& name) {
    path_ = section_.empty() ? name : absl::StrCat(section_, ".", name);
    key_ = wire::FindConfigKey(path_);
    if (key_ == nullptr && !(section_.empty() && IsSection(path_))) {
      Refuse(mark, "unknown key ", Quoted(path_), "; did you mean \"", View(NearestKey(path_)), "\"?");
    }
    const auto [first, is_new] = lines_.emplace(path_, mark.line + 1);
    if (!is_new) Refuse(mark, "key ", Quoted(path_), " is doubled; it was first set in line ", first->second);
    place_ = Place::kValue;
  }

  void TakeValue(const YAML::Mark& mark, std::string_view text) {
    const absl::Status status = settings_->Set(path_, text, wire::Origin::kFile);
    if (!status.ok()) Refuse(mark, status.message());
    place_ = Place::kKey;
  }

  const std::string source_;
  wire::Settings* const settings_;
  Place place_ = Place::kDocument;
  std::string section_;             // empty at the top
  std::string path_;                // of the key that was read last, and
  const ConfigKey* key_ = nullptr;  // its row; null for a section
  std::map<std::string, int> lines_;
  YAML::Mark list_mark_;
  std::vector<std::string> elements_;
};

// The usual slip: a pattern's * or ? is YAML's own unless it stands in quotes.
absl::string_view HintFor(const std::string& message) {
  const bool likely = absl::StrContains(message, "alias") ||
                      absl::StrContains(message, YAML::ErrorMsg::UNKNOWN_ANCHOR) ||
                      absl::StrContains(message, YAML::ErrorMsg::UNKNOWN_TOKEN);
  return likely ? "; a pattern with * or ? stands in quotes, as in exclude: [\"*.bias\"]" : "";
}

// A text of one document goes through `reader`; a second document is refused.
absl::Status Parse(const std::string& text, std::string_view source, Reader* reader) {
  try {
    std::istringstream stream(text);
    YAML::Parser parser(stream);
    if (!parser.HandleNextDocument(*reader)) return absl::OkStatus();
    if (parser) {
      return absl::InvalidArgumentError(
          absl::StrCat(View(source), ": there is more than one YAML document; a configuration is one"));
    }
    return absl::OkStatus();
  } catch (const Refused& refused) {
    return refused.status;
  } catch (const YAML::Exception& error) {
    return absl::InvalidArgumentError(
        absl::StrCat(At(source, error.mark), "not YAML: ", error.msg, HintFor(error.msg)));
  } catch (const std::exception& error) {
    return absl::InvalidArgumentError(absl::StrCat(View(source), ": cannot be read: ", error.what()));
  }
}

// Control characters have no place in YAML; yaml-cpp would take one of them for the end of the text.
absl::Status CheckBytes(std::string_view text, std::string_view source) {
  if (text.size() > kMaxConfigBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(View(source), ": longer than ", kMaxConfigBytes, " bytes; this is no configuration"));
  }
  const auto is_control = [](unsigned char c) { return c < 0x20 && c != '\t' && c != '\n' && c != '\r'; };
  const auto found = std::find_if(text.begin(), text.end(), is_control);
  if (found == text.end()) return absl::OkStatus();
  const auto line = 1 + std::count(text.begin(), found, '\n');
  return absl::InvalidArgumentError(
      absl::StrCat(View(source), ", line ", line, ": holds the control character 0x",
                   absl::Hex(static_cast<unsigned char>(*found), absl::kZeroPad2)));
}

absl::StatusOr<std::string> ReadFile(const std::string& path) {
  const auto failed = [&path] {
    return absl::NotFoundError(
        absl::StrCat("cannot read ", Quoted(path), ", which TERSE_CONFIG names: ", std::strerror(errno)));
  };
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rb"), &std::fclose);
  if (file == nullptr) return failed();
  std::string text(kMaxConfigBytes + 1, '\0');
  text.resize(std::fread(text.data(), 1, text.size(), file.get()));
  if (std::ferror(file.get()) != 0) return failed();
  return text;
}

std::string ConfigPath(absl::Span<const std::string> environment) {
  constexpr std::string_view kName = "TERSE_CONFIG=";
  for (const std::string_view variable : environment) {
    if (variable.substr(0, kName.size()) == kName) return std::string(variable.substr(kName.size()));
  }
  return "";
}

}  // namespace

absl::StatusOr<wire::Settings> LoadSettings(const char* yaml_text,
                                            absl::Span<const std::string> environment) {
  std::string text;
  std::string source = "configuration text";
  if (yaml_text != nullptr) {
    text.assign(yaml_text, strnlen(yaml_text, kMaxConfigBytes + 1));
  } else if (const std::string path = ConfigPath(environment); !path.empty()) {
    absl::StatusOr<std::string> file = ReadFile(path);
    if (!file.ok()) return file.status();
    text = *std::move(file);
    source = path;
  }
  if (absl::Status status = CheckBytes(text, source); !status.ok()) return status;
  wire::Settings settings;
  Reader reader(source, &settings);
  if (absl::Status status = Parse(text, source, &reader); !status.ok()) return status;
  if (absl::Status status = settings.SetFromEnvironment(environment); !status.ok()) return status;
  return settings;
}

std::vector<std::string> CurrentEnvironment() {
  std::vector<std::string> variables;
  for (char** variable = environ; variable != nullptr && *variable != nullptr; ++variable) {
    variables.emplace_back(*variable);
  }
  return variables;
}

}  // namespace terse::client
