// Texts of both pages.

import type { Texts } from "./i18n";

const own = {
  language: ["Language", "语言"],
  theme: ["Switch between light and dark", "切换浅色与深色"],
  skip: ["Skip to content", "跳到正文"],
  connecting: ["connecting…", "正在连接…"],
  connected: ["connected", "已连接"],
  reconnecting: ["reconnecting…", "正在重新连接…"],
  waiting: ["connection lost, retrying in {s} s", "连接已断开，{s} 秒后重试"],
  waiting_why: ["connection lost ({why}), retrying in {s} s", "连接已断开（{why}），{s} 秒后重试"],
  closed_silent: ["no answer from the server", "服务器无应答"],
  closed_leaving: ["the server is restarting", "服务器正在重启"],
  closed_limit: ["a connection limit was reached", "已达到连接限制"],
  closed_overloaded: ["the server is overloaded", "服务器过载"],
  closed_slow: ["this browser could not keep up", "浏览器处理过慢"],
  closed_operator: ["disconnected by an operator", "已被操作员断开"],
  recovering: ["connected, catching up…", "已连接，正在补齐…"],
  gapless: ["connected, recovered without a gap", "已连接，数据已完整恢复"],
  anew: ["connected, some messages were missed", "已连接，部分消息已缺失"],
  refused: ["sign-in required", "需要登录"],
  no_answer: ["the server does not answer", "服务器无应答"],
  bad_answer: ["the server answered with status {status}", "服务器返回状态 {status}"],
  signin_title: ["Sign in", "登录"],
  signin_token: ["Token", "令牌"],
  signin_button: ["Sign in", "登录"],
  signin_hint: ["A JSON Web Token or an API key. It is kept in this tab only.", "JSON Web Token 或 API 密钥，仅保存在此标签页中。"],
  signin_bad: ["This token is not accepted: {why}", "令牌未被接受：{why}"],
  signin_ended: ["The server no longer accepts this sign-in. Sign in again.", "服务器不再接受当前登录，请重新登录。"],
  signin_unanswered: ["The server does not answer. Trying again…", "服务器无应答，正在重试…"],
  signin_failed: ["Sign-in is not possible at the moment: {why}. Trying again…", "暂时无法登录：{why}。正在重试…"],
  sign_out: ["Sign out", "退出登录"],
} as const;

export type Shared = keyof typeof own;

export const shared: Texts<Shared> = own;
