// SPDX-License-Identifier: Apache-2.0
#include "runtime/cli/console/views.h"

#include <algorithm>
#include <cstdio>
#include <ctime>
#include <map>
#include <tuple>

#include "proto/wire/plan_history.h"

namespace terse::cli {
namespace {

constexpr size_t kWidestName = 40;

template <typename... Values>
std::string Format(const char* format, Values... values) {
  char text[256];
  std::snprintf(text, sizeof text, format, values...);
  return text;
}

// Characters, not bytes: what continues one takes no column.
size_t Columns(const std::string& text) {
  return static_cast<size_t>(
      std::count_if(text.begin(), text.end(), [](unsigned char c) { return (c & 0xc0) != 0x80; }));
}

std::string Cut(const std::string& text, size_t columns) {
  if (Columns(text) <= columns) return text;
  size_t at = 0;
  for (size_t left = columns - 1; at < text.size(); ++at) {
    if ((static_cast<unsigned char>(text[at]) & 0xc0) == 0x80) continue;
    if (left-- == 0) break;
  }
  return text.substr(0, at) + "~";
}

struct Column {
  const char* head;
  bool left;
};

// Columns as wide as what is in them.
Lines Table(const std::vector<Column>& columns, const std::vector<std::vector<std::string>>& rows) {
  std::vector<size_t> widths;
  for (size_t c = 0; c < columns.size(); ++c) {
    widths.push_back(std::string(columns[c].head).size());
    for (const std::vector<std::string>& row : rows) widths[c] = std::max(widths[c], Columns(row[c]));
  }
  const auto line = [&](const auto& cell) {
    std::string text;
    for (size_t c = 0; c < columns.size(); ++c) {
      const std::string value = cell(c);
      const std::string pad(widths[c] - Columns(value), ' ');
      text += (c == 0 ? "" : "  ") + (columns[c].left ? value + pad : pad + value);
    }
    return text.substr(0, text.find_last_not_of(' ') + 1);
  };
  Lines lines = {line([&](size_t c) { return std::string(columns[c].head); })};
  for (const std::vector<std::string>& row : rows) lines.push_back(line([&](size_t c) { return row[c]; }));
  return lines;
}

std::string NumberText(double x) { return x == 0 ? "-" : Format("%.3g", x); }
std::string TimesText(double dense, double sent) { return sent > 0 ? Format("%.1fx", dense / sent) : "-"; }

std::string TimeText(int64_t us) {
  if (us == 0) return "-";
  const auto seconds = static_cast<std::time_t>(us / 1'000'000);
  std::tm parts = {};
  gmtime_r(&seconds, &parts);
  char text[32];
  return std::string(text, std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts));
}

std::string CommandsText(const v1::Commands& commands) {
  std::string text;
  const auto add = [&text](const std::string& what) { text += (text.empty() ? "" : ", ") + what; };
  if (commands.force_dense()) add("dense for all");
  if (commands.paused()) add("adaptation paused");
  if (commands.alpha() != 0 && commands.alpha() != 1) add(Format("budget times %g", commands.alpha()));
  if (commands.pins_size() > 0) add(Format("%d pinned", static_cast<int>(commands.pins_size())));
  return text.empty() ? "none" : text;
}

}  // namespace

std::string_view Name(TensorOrder order) {
  switch (order) {
    case TensorOrder::kName:
      return "name";
    case TensorOrder::kElements:
      return "elements";
    case TensorOrder::kSent:
      return "sent";
    case TensorOrder::kError:
      return "error";
    case TensorOrder::kResidual:
      return "residual";
    case TensorOrder::kDense:
      return "dense";
  }
  return "";
}

std::string Printable(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto c = static_cast<unsigned char>(text[i]);
    // U+0080 to U+009F are controls as well.
    const bool c1 = c == 0xc2 && i + 1 < text.size() && static_cast<unsigned char>(text[i + 1]) < 0xa0;
    if (c < ' ' || c == 0x7f || c1) {
      out += '?';
      i += c1 ? 1 : 0;
    } else {
      out += text[i];
    }
  }
  return out;
}

std::string BytesText(double bytes) {
  constexpr const char* kUnits[] = {"B", "kB", "MB", "GB", "TB", "PB"};
  size_t unit = 0;
  for (; bytes >= 999.5 && unit + 1 < std::size(kUnits); ++unit) bytes /= 1000;
  return unit == 0 ? Format("%.0f B", bytes) : Format("%.3g %s", bytes, kUnits[unit]);
}

std::string StateText(v1::JobState state) {
  switch (state) {
    case v1::JOB_STATE_RUNNING:
      return "running";
    case v1::JOB_STATE_SILENT:
      return "silent";
    case v1::JOB_STATE_FINISHED:
      return "finished";
    default:
      return "?";
  }
}

std::vector<v1::Job> Sorted(std::vector<v1::Job> jobs) {
  std::sort(jobs.begin(), jobs.end(), [](const v1::Job& a, const v1::Job& b) {
    return std::tuple(a.state(), a.name(), a.registered_us()) <
           std::tuple(b.state(), b.name(), b.registered_us());
  });
  return jobs;
}

std::vector<v1::Tensor> Sorted(std::vector<v1::Tensor> tensors, TensorOrder order) {
  const auto value = [order](const v1::Tensor& tensor) {
    switch (order) {
      case TensorOrder::kElements:
        return static_cast<double>(tensor.elements());
      case TensorOrder::kSent:
        return tensor.state().bytes_sent();
      case TensorOrder::kError:
        return tensor.error();
      case TensorOrder::kResidual:
        return tensor.state().residual_norm();
      case TensorOrder::kDense:
        return tensor.state().dense_ms();
      default:
        return 0.0;
    }
  };
  std::sort(tensors.begin(), tensors.end(), [&](const v1::Tensor& a, const v1::Tensor& b) {
    const double first = value(a);
    const double second = value(b);
    return first != second ? first > second : a.name() < b.name();
  });
  return tensors;
}

Lines JobTable(const std::vector<v1::Job>& jobs) {
  std::vector<std::vector<std::string>> rows;
  for (const v1::Job& job : jobs) {
    rows.push_back({Cut(Printable(job.id()), kWidestName), StateText(job.state()),
                    std::to_string(job.world_size()), std::to_string(job.step()), NumberText(job.step_ms()),
                    BytesText(job.bytes_sent()), TimesText(job.dense_bytes(), job.bytes_sent()),
                    std::to_string(job.plan_version()),
                    std::to_string(job.compressed_tensors()) + "/" + std::to_string(job.tensors()),
                    Printable(job.policy()), CommandsText(job.commands())});
  }
  return Table({{"JOB", true},
                {"STATE", true},
                {"RANKS", false},
                {"STEP", false},
                {"MS/STEP", false},
                {"SENT", false},
                {"LESS", false},
                {"PLAN", false},
                {"COMPRESSED", false},
                {"POLICY", true},
                {"COMMANDS", true}},
               rows);
}

Lines TensorTable(const std::vector<v1::Tensor>& tensors) {
  std::vector<std::vector<std::string>> rows;
  for (const v1::Tensor& tensor : tensors) {
    const v1::TensorState& state = tensor.state();
    const bool other = !state.path().empty() && state.setting().rfind(state.path(), 0) != 0;
    rows.push_back({Cut(Printable(tensor.name()), kWidestName), std::to_string(tensor.elements()),
                    Printable(state.setting()) + (tensor.pin().empty() ? "" : " (pinned)"),
                    other ? Printable(state.path()) : "", BytesText(state.bytes_sent()),
                    TimesText(state.dense_bytes(), state.bytes_sent()), NumberText(tensor.error()),
                    NumberText(state.residual_norm()), NumberText(state.compressed_ms()),
                    NumberText(state.dense_ms()), Printable(state.reason())});
  }
  return Table({{"TENSOR", true},
                {"ELEMENTS", false},
                {"PLAN", true},
                {"GOES", true},
                {"SENT", false},
                {"LESS", false},
                {"ERROR", false},
                {"RESIDUAL", false},
                {"COMPR MS", false},
                {"DENSE MS", false},
                {"WHY", true}},
               rows);
}

Lines JobHead(const v1::Job& job) {
  Lines lines;
  lines.push_back(Printable(job.id()) + ": " + StateText(job.state()) + ", " +
                  std::to_string(job.world_size()) + " ranks, rank 0 is process " +
                  std::to_string(job.process()) + " on " + Printable(job.host()));
  lines.push_back("step " + std::to_string(job.step()) + " (" + std::to_string(job.skipped()) +
                  " skipped), " + NumberText(job.step_ms()) + " ms each; sent " +
                  BytesText(job.bytes_sent()) + " where dense sends " + BytesText(job.dense_bytes()) + " (" +
                  TimesText(job.dense_bytes(), job.bytes_sent()) + " less); measuring took " +
                  NumberText(job.measure_ms()) + " ms");
  lines.push_back("plan " + std::to_string(job.plan_version()) + " since step " +
                  std::to_string(job.plan_since()) + ": " + Printable(job.plan_why()));
  lines.push_back("policy " + Printable(job.policy()) + ": " + Printable(job.last_decision()));
  lines.push_back("commands: " + CommandsText(job.commands()));
  return lines;
}

Lines PlanText(const v1::Plan& plan) {
  Lines lines;
  lines.push_back("plan " + std::to_string(plan.version()) + " of " + Printable(plan.job_id()) + ", " +
                  (plan.taken() ? "in force since step " : "offered for step ") +
                  std::to_string(plan.step()) +
                  (plan.decided_us() == 0 ? "" : ", decided " + TimeText(plan.decided_us())));
  if (!plan.outcome().why().empty()) lines.push_back(Printable(plan.outcome().why()));
  if (plan.outcome().lower_bound() > 0) {
    lines.push_back("sends " + BytesText(plan.outcome().bytes()) +
                    " a step, where the configured setting sends " +
                    BytesText(plan.outcome().uniform_bytes()) + " and no plan within the budget less than " +
                    BytesText(plan.outcome().lower_bound()));
  }
  std::vector<std::vector<std::string>> rows;
  for (const v1::PlanRow& row : plan.rows())
    rows.push_back(
        {Cut(Printable(row.tensor()), kWidestName), Printable(row.setting()), Printable(row.reason())});
  for (std::string& line : Table({{"TENSOR", true}, {"PLAN", true}, {"WHY", true}}, rows))
    lines.push_back(std::move(line));
  return lines;
}

Lines PlanDifference(const v1::Plan& before, const v1::Plan& after) {
  std::map<std::string, const v1::PlanRow*> then;
  for (const v1::PlanRow& row : after.rows()) then[row.tensor()] = &row;
  std::vector<std::vector<std::string>> rows;
  for (const v1::PlanRow& row : before.rows()) {
    const auto found = then.find(row.tensor());
    const v1::PlanRow* const now = found == then.end() ? nullptr : found->second;
    if (now == nullptr || now->setting() != row.setting()) {
      rows.push_back({Cut(Printable(row.tensor()), kWidestName), Printable(row.setting()),
                      now == nullptr ? "gone" : Printable(now->setting()),
                      now == nullptr ? "" : Printable(now->reason())});
    }
    if (found != then.end()) then.erase(found);
  }
  for (const v1::PlanRow& row : after.rows()) {
    if (then.contains(row.tensor()))
      rows.push_back({Cut(Printable(row.tensor()), kWidestName), "new", Printable(row.setting()),
                      Printable(row.reason())});
  }
  if (rows.empty())
    return {"plans " + std::to_string(before.version()) + " and " + std::to_string(after.version()) +
            " are the same"};
  const std::string first = "PLAN " + std::to_string(before.version());
  const std::string second = "PLAN " + std::to_string(after.version());
  return Table({{"TENSOR", true}, {first.c_str(), true}, {second.c_str(), true}, {"WHY", true}}, rows);
}

Lines HistoryText(const std::vector<v1::Plan>& plans) {
  Lines lines;
  for (const v1::Plan& plan : plans) {
    lines.push_back("plan " + std::to_string(plan.version()) + "  " +
                    (plan.taken() ? "step " : "offered for step ") + std::to_string(plan.step()) + "  " +
                    TimeText(plan.decided_us()) + "  " + Printable(plan.outcome().why()));
    if (plan.version() == 0) continue;
    for (const v1::PlanRow& row : plan.rows())
      lines.push_back("    " + Printable(row.tensor()) + " -> " + Printable(row.setting()) + "  " +
                      Printable(row.reason()));
  }
  return lines;
}

std::string ReplayText(const std::vector<v1::Plan>& plans) {
  std::string text(wire::kPlanHistoryHead);
  for (const v1::Plan& plan : plans) {
    if (!plan.taken() || plan.version() == 0) continue;
    wire::PastPlan past{.version = plan.version(), .step = plan.step(), .changes = {}};
    for (const v1::PlanRow& row : plan.rows())
      past.changes.push_back({.tensor = row.tensor(), .setting = row.setting()});
    text += wire::PlanHistoryText(past);
  }
  return text;
}

Lines AuditText(const std::vector<v1::AuditEntry>& entries) {
  std::vector<std::vector<std::string>> rows;
  for (const v1::AuditEntry& entry : entries) {
    rows.push_back({TimeText(entry.at_us()), Printable(entry.who()), Printable(entry.peer()),
                    Printable(entry.job_id()), Printable(entry.what()), Printable(entry.outcome())});
  }
  return Table(
      {{"WHEN", true}, {"WHO", true}, {"FROM", true}, {"JOB", true}, {"WHAT", true}, {"OUTCOME", true}},
      rows);
}

}  // namespace terse::cli
