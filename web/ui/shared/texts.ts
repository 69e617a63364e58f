// Texts of both pages.

import type { Texts } from "./i18n";

export type Shared =
  | "language" | "theme" | "connecting" | "connected" | "reconnecting" | "waiting" | "waiting_why" | "gapless" | "anew" | "refused" | "recovering"
  | "signin_title" | "signin_token" | "signin_button" | "signin_hint" | "signin_bad" | "signin_unanswered" | "sign_out" | "skip";

export const shared: Texts<Shared> = {
  language: ["Language", "语言"],
  theme: ["Light or dark", "浅色或深色"],
  skip: ["Skip to the content", "跳到正文"],
  connecting: ["connecting…", "正在连接…"],
  connected: ["connected", "已连接"],
  reconnecting: ["reconnecting…", "正在重新连接…"],
  waiting: ["connection lost, next attempt in {s} s", "连接已断开，{s} 秒后重试"],
  waiting_why: ["connection lost ({why}), next attempt in {s} s", "连接已断开（{why}），{s} 秒后重试"],
  recovering: ["connected, catching up…", "已连接，正在补齐…"],
  gapless: ["connected, recovered without a gap", "已连接，恢复无缺失"],
  anew: ["connected, some rooms started anew", "已连接，部分房间已重新开始"],
  refused: ["the token is not accepted", "令牌未被接受"],
  signin_title: ["Sign in", "登录"],
  signin_token: ["Token", "令牌"],
  signin_button: ["Sign in", "登录"],
  signin_hint: ["A JSON Web Token or an API key. It stays in this tab.", "JSON Web Token 或 API 密钥，仅保存在此标签页中。"],
  signin_bad: ["This token is not accepted: {why}", "令牌未被接受：{why}"],
  signin_unanswered: ["No node answers ({why}). Trying again…", "没有节点应答（{why}），正在重试…"],
  sign_out: ["Sign out", "退出登录"],
};
