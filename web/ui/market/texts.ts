// Texts of the market page.

import { type Shared, shared } from "../shared/texts";
import type { Texts } from "../shared/i18n";

const own = {
  title: ["live quotes", "实时行情"],
  dashboard: ["Dashboard", "仪表盘"],
  cut: ["Cut it", "断开"],
  cut_hint: ["The connection: it comes back by itself", "连接：断开后自动恢复"],
  rate: ["Messages", "消息"],
  per_second: ["/s", "/秒"],
  round_trip: ["Round trip", "往返时延"],
  received: ["Received", "已接收"],
  conflated: ["Conflated", "已合并"],
  conflated_hint: ["by newer ones", "被更新的值取代"],
  lost: ["Lost", "丢失"],
  lost_hint: ["by number", "按序号计数"],
  reconnects: ["Reconnects", "重连"],
  rooms_anew: ["{n} rooms anew", "{n} 个房间重新开始"],
  node: ["Node", "节点"],
  since_connect: ["since it opened", "自页面打开"],
  caption: ["Latest quote of each symbol, at most four updates a second; small below: volumes. Choose a symbol for its chart.", "各品种最新报价，每秒最多更新四次；下方小字为数量。选择品种查看图表。"],
  symbol: ["Symbol", "品种"],
  exchange: ["Exchange", "交易所"],
  last: ["Last", "最新"],
  bid: ["Bid", "买价"],
  ask: ["Ask", "卖价"],
  change: ["Change", "涨跌"],
  trend: ["One-minute bars", "一分钟K线"],
  time: ["Time", "时间"],
  seq: ["Seq", "序号"],
  waiting_title: ["Waiting for the first quote.", "等待首个报价。"],
  waiting_how: ["Start some with", "可用以下命令开始："],
  ticks: ["Ticks", "逐笔"],
  bars: ["1 min", "1 分钟"],
  chart_of: ["Chart of {symbol}", "{symbol} 图表"],
  chart_text_bars: ["{symbol}: {n} one-minute bars, last {close}, lowest {low}, highest {high}", "{symbol}：{n} 根一分钟K线，最新 {close}，最低 {low}，最高 {high}"],
  chart_text_ticks: ["{symbol}: the last {n} ticks, last {close}, lowest {low}, highest {high}", "{symbol}：最近 {n} 笔，最新 {close}，最低 {low}，最高 {high}"],
  no_bars: ["No bars are kept of this symbol yet.", "该品种暂无K线。"],
  bar_count: ["{n} bars", "{n} 根K线"],
  tick_count: ["{n} ticks", "{n} 笔"],
  high: ["High", "最高"],
  low: ["Low", "最低"],
  spread: ["Spread", "价差"],
  bars_problem: ["Bars are not shown: {why}", "无法显示K线：{why}"],
  rooms_problem: ["Symbols cannot be looked for: {why}", "无法查询品种：{why}"],
  room_problem: ["{room}: {why}", "{room}：{why}"],
  and_more: ["{n} more symbols are not shown.", "另有 {n} 个品种未显示。"],
  no_symbols: ["Symbols are listed for operators and publishers. Others see their watchlist, which is empty, or name them in the address: ?symbols=EURUSD,ACME", "品种列表仅限 operator 与 publisher。其他用户可查看自选列表（当前为空），或在地址中指定：?symbols=EURUSD,ACME"],
  nobody: ["Without a token nobody may look here.", "未提供令牌，无法查看。"],
  footer: ["Every number above came through /ws, conflated for this page only.", "以上数据均经由 /ws 获取，仅为本页合并。"],
  session: ["Session", "会话"],
} as const;

export type Key = Shared | keyof typeof own;

export const texts: Texts<Key> = { ...shared, ...own };
